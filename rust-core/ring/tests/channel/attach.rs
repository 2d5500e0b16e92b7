//! Attaching refuses, by name, whatever it does not understand; every error of the crate is provoked here.

use crate::support::{RESPONSE_SCHEMA, SCHEMA, bytes_of, config, create, file_of, rehash, unsealed_file_of};
use ringmill_ring::{ChannelConfig, CoreEnd, Doorbell, FileRole, RingError, Wait, WorkerEnd, inspect, layout};
use std::os::fd::OwnedFd;

fn attach(request: OwnedFd, response: OwnedFd) -> Result<WorkerEnd, RingError> {
    WorkerEnd::attach(request, response, Doorbell::new()?, Wait::Adaptive, SCHEMA, RESPONSE_SCHEMA)
}

/// The error of attaching to a channel whose files were edited.
fn refusal(edit: impl FnOnce(&mut Vec<u8>, &mut Vec<u8>)) -> RingError {
    let core = create(2, 64);
    let (request, response) = core.worker_fds().unwrap();
    let (mut request, mut response) = (bytes_of(&request), bytes_of(&response));
    edit(&mut request, &mut response);
    attach(file_of(&request), file_of(&response)).err().expect("attached to edited memory")
}

fn put(bytes: &mut [u8], name: &str, value: u64) {
    let field = layout::FIELDS.iter().find(|field| field.section == "header" && field.name == name).unwrap();
    bytes[field.offset..field.offset + field.bytes].copy_from_slice(&value.to_le_bytes()[..field.bytes]);
}

/// Edit one field of the request header, with or without correcting the hash.
fn refused_field(name: &str, value: u64, with_hash: bool) -> String {
    refusal(|request, _| {
        put(request, name, value);
        if with_hash {
            rehash(request);
        }
    })
    .to_string()
}

#[test]
fn an_untouched_copy_is_accepted() {
    let core = create(2, 64);
    let (request, response) = core.worker_fds().unwrap();
    attach(file_of(&bytes_of(&request)), file_of(&bytes_of(&response))).unwrap();
}

#[test]
fn a_header_field_out_of_line_is_refused_and_named() {
    let check = |name, value, with_hash, expected: &str| {
        let message = refused_field(name, value, with_hash);
        assert!(message.starts_with(expected), "{name} = {value}: {message:?}");
    };
    check("magic", 1, false, "request memory is no Ringmill channel: magic is 0x0000000000000001");
    check("version_major", 2, false, "request memory has protocol version 2.0, this build speaks 1.0");
    check("features_required", 4, false, "request memory requires features 0x4 that this build does not know");
    check("slots", 4, false, "request header is corrupt: its hash is 0x");
    check("role", 3, true, "request memory has role 3, expected 1");
    check("layout_hash", 1, true, "request memory has layout hash 0x0000000000000001, this build has 0x");
    check("slots", 3, true, "slots is 3, but must be a power of two");
    check("slot_bytes", 0, true, "request_slot_bytes is 0, but must be from 1");
    check("ring_entries", 8, true, "request header says ring_entries = 8, expected 4");
    check("slot_stride", 1 << 40, true, "request header says slot_stride = 1099511627776, expected 128");
    check("ring_offset", 64, true, "request header says ring_offset = 64, expected 4096");
    check("slots_offset", 0, true, "request header says slots_offset = 0, expected 8192");
    check("file_bytes", 4096, true, "request header says file_bytes = 4096, expected 12288");
    check("slots", 1024, true, "request header says ring_entries = 4, expected 2048");
    check("start_position", u64::MAX, true, "request header says start_position = 18446744073709551615");
}

#[test]
fn every_flipped_bit_of_the_header_is_refused() {
    for bit in 0..layout::HEADER_BYTES * 8 {
        let error = refusal(|request, _| request[bit / 8] ^= 1 << (bit % 8));
        assert!(error.to_string().contains("request"), "bit {bit}: {error}");
        let error = refusal(|_, response| response[bit / 8] ^= 1 << (bit % 8));
        assert!(error.to_string().contains("response"), "bit {bit}: {error}");
    }
}

#[test]
fn a_higher_minor_version_and_optional_features_are_accepted() {
    let core = create(2, 64);
    let (request, response) = core.worker_fds().unwrap();
    let (mut request, response) = (bytes_of(&request), bytes_of(&response));
    put(&mut request, "version_minor", 9);
    put(&mut request, "features_optional", u64::MAX);
    rehash(&mut request);
    attach(file_of(&request), file_of(&response)).unwrap();
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let core = create(2, 64);
    let (request, _) = core.worker_fds().unwrap();
    let size = bytes_of(&request).len();
    for length in [0, 1, 127, 128, 4095, 4096, 8192, size - 1] {
        let error = refusal(|request, _| request.truncate(length));
        assert!(matches!(error, RingError::Truncated { file: FileRole::Request, .. }), "{length} bytes: {error}");
        let error = refusal(|_, response| response.truncate(length));
        assert!(matches!(error, RingError::Truncated { file: FileRole::Response, .. }), "{length} bytes: {error}");
    }
}

#[test]
fn files_of_two_channels_or_in_the_wrong_order_are_refused() {
    let error = refusal(std::mem::swap);
    assert_eq!(error.to_string(), "request memory has role 2, expected 1");
    let error = refusal(|request, _| {
        put(request, "generation", 5);
        rehash(request);
    });
    assert_eq!(error.to_string(), "request memory is of generation 5, response memory of generation 1");
    let (few, many) = (create(2, 64), create(4, 64));
    let error = attach(few.worker_fds().unwrap().0, many.worker_fds().unwrap().1).err().unwrap();
    assert_eq!(error.to_string(), "response header says slots = 4, expected 2");
}

#[test]
fn another_schema_is_refused() {
    for (expect, expect_response, message) in [
        (7, RESPONSE_SCHEMA, "request memory carries schema 0x0000000000000051, expected 0x0000000000000007"),
        (SCHEMA, 7, "response memory carries schema 0x0000000000000052, expected 0x0000000000000007"),
    ] {
        let (request, response) = create(2, 64).worker_fds().unwrap();
        let doorbell = Doorbell::new().unwrap();
        let error = WorkerEnd::attach(request, response, doorbell, Wait::Block, expect, expect_response);
        assert_eq!(error.err().unwrap().to_string(), message);
    }
}

#[test]
fn memory_that_could_shrink_is_refused() {
    let (request, response) = create(2, 64).worker_fds().unwrap();
    let error = attach(unsealed_file_of(&bytes_of(&request)), response).err().unwrap();
    assert_eq!(error.to_string(), "request memory lacks seals: it has 0x0, but 0x6 are needed");
}

#[test]
fn a_response_that_cannot_be_written_is_refused() {
    let core = create(2, 64);
    let (request, response) = core.worker_fds().unwrap();
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&response));
    let read_only = std::fs::File::open(path).unwrap();
    let error = attach(request, read_only.into()).err().unwrap();
    let expected = "mmap of 12288 bytes for response memory: Permission denied (os error 13)";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn sizes_out_of_range_are_refused() {
    let check = |edit: fn(&mut ChannelConfig), expected: &str| {
        let mut config = config(2, 64);
        edit(&mut config);
        assert_eq!(CoreEnd::create(&config).err().unwrap().to_string(), expected);
    };
    check(|config| config.slots = 0, "slots is 0, but must be a power of two from 1 to 1024");
    check(|config| config.slots = 3, "slots is 3, but must be a power of two from 1 to 1024");
    check(|config| config.slots = 2048, "slots is 2048, but must be a power of two from 1 to 1024");
    check(|config| config.request_slot_bytes = 0, "request_slot_bytes is 0, but must be from 1 to 2147483648");
    check(
        |config| config.response_slot_bytes = (1 << 31) + 1,
        "response_slot_bytes is 2147483649, but must be from 1 to 2147483648",
    );
}

#[test]
fn a_full_machine_is_an_error_with_the_bytes_needed() {
    let error = CoreEnd::create(&config(1024, 1 << 31)).err().unwrap();
    let RingError::OutOfMemory { file: FileRole::Request, bytes, available } = error else { panic!("{error}") };
    assert!(bytes > 1 << 41 && available < bytes);
    assert!(error.to_string().starts_with("request memory needs 2199023390720 bytes, but only "), "{error}");
}

#[test]
fn inspecting_refuses_what_attaching_refuses() {
    let core = create(2, 64);
    let (request, response) = core.worker_fds().unwrap();
    let error = inspect(&response, &request).unwrap_err();
    assert_eq!(error.to_string(), "request memory has role 2, expected 1");
}
