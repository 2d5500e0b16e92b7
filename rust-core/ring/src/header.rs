//! The static header: written once by the core before a worker exists, read once at attach into private memory.
//!
//! [`Header::check`] refuses whatever this build does not understand and names what differs.

use crate::error::{FileRole, RingError};
use crate::layout::{
    FEATURES_REQUIRED_KNOWN, FNV_OFFSET, Geometry, HEADER_BYTES, LAYOUT_HASH, MAGIC, VERSION_MAJOR, VERSION_MINOR,
    fnv1a,
};

/// The header's fields, in file order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub magic: u64,
    pub version_major: u16,
    pub version_minor: u16,
    pub role: u32,
    pub features_required: u64,
    pub features_optional: u64,
    pub layout_hash: u64,
    pub schema_hash: u64,
    pub generation: u64,
    pub file_bytes: u64,
    pub slots: u32,
    pub ring_entries: u32,
    pub slot_bytes: u64,
    pub slot_stride: u64,
    pub ring_offset: u64,
    pub slots_offset: u64,
    pub start_position: u64,
    pub reserved: u64,
    pub header_hash: u64,
}

impl Header {
    /// The header of a file that this build writes.
    pub fn new(geometry: &Geometry, schema_hash: u64, generation: u64, start_position: u64) -> Header {
        let header = Header {
            magic: MAGIC,
            version_major: VERSION_MAJOR,
            version_minor: VERSION_MINOR,
            role: geometry.role as u32,
            features_required: 0,
            features_optional: 0,
            layout_hash: LAYOUT_HASH,
            schema_hash,
            generation,
            file_bytes: geometry.file_bytes,
            slots: geometry.slots,
            ring_entries: geometry.ring_entries,
            slot_bytes: geometry.slot_bytes,
            slot_stride: geometry.slot_stride,
            ring_offset: geometry.ring_offset,
            slots_offset: geometry.slots_offset,
            start_position,
            reserved: 0,
            header_hash: 0,
        };
        Header { header_hash: header_hash(&header.encode()), ..header }
    }

    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut at = 0;
        let mut put = |field: &[u8]| {
            bytes[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        };
        put(&self.magic.to_le_bytes());
        put(&self.version_major.to_le_bytes());
        put(&self.version_minor.to_le_bytes());
        put(&self.role.to_le_bytes());
        put(&self.features_required.to_le_bytes());
        put(&self.features_optional.to_le_bytes());
        put(&self.layout_hash.to_le_bytes());
        put(&self.schema_hash.to_le_bytes());
        put(&self.generation.to_le_bytes());
        put(&self.file_bytes.to_le_bytes());
        put(&self.slots.to_le_bytes());
        put(&self.ring_entries.to_le_bytes());
        put(&self.slot_bytes.to_le_bytes());
        put(&self.slot_stride.to_le_bytes());
        put(&self.ring_offset.to_le_bytes());
        put(&self.slots_offset.to_le_bytes());
        put(&self.start_position.to_le_bytes());
        put(&self.reserved.to_le_bytes());
        put(&self.header_hash.to_le_bytes());
        bytes
    }

    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Header {
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|index| bytes[at + index]));
        let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|index| bytes[at + index]));
        Header {
            magic: u64_at(0),
            version_major: u16_at(8),
            version_minor: u16_at(10),
            role: u32_at(12),
            features_required: u64_at(16),
            features_optional: u64_at(24),
            layout_hash: u64_at(32),
            schema_hash: u64_at(40),
            generation: u64_at(48),
            file_bytes: u64_at(56),
            slots: u32_at(64),
            ring_entries: u32_at(68),
            slot_bytes: u64_at(72),
            slot_stride: u64_at(80),
            ring_offset: u64_at(88),
            slots_offset: u64_at(96),
            start_position: u64_at(104),
            reserved: u64_at(112),
            header_hash: u64_at(120),
        }
    }

    /// Refuse what this build does not understand; the geometry that follows from the header otherwise.
    ///
    /// `actual_bytes` is the file's size. The order of the checks matters: version and features first, since they decide
    /// what the other fields mean.
    pub fn check(&self, file: FileRole, actual_bytes: u64) -> Result<Geometry, RingError> {
        if self.magic != MAGIC {
            return Err(RingError::WrongMagic { file, found: self.magic, expected: MAGIC });
        }
        if self.version_major != VERSION_MAJOR {
            return Err(RingError::WrongVersion {
                file,
                found_major: self.version_major,
                found_minor: self.version_minor,
                major: VERSION_MAJOR,
                minor: VERSION_MINOR,
            });
        }
        let unknown = self.features_required & !FEATURES_REQUIRED_KNOWN;
        if unknown != 0 {
            return Err(RingError::UnknownFeatures { file, unknown, known: FEATURES_REQUIRED_KNOWN });
        }
        let computed = header_hash(&self.encode());
        if self.header_hash != computed {
            return Err(RingError::CorruptHeader { file, found: self.header_hash, computed });
        }
        if self.role != file as u32 {
            return Err(RingError::WrongRole { file, found: self.role, expected: file as u32 });
        }
        if self.layout_hash != LAYOUT_HASH {
            return Err(RingError::WrongLayout { file, found: self.layout_hash, expected: LAYOUT_HASH });
        }
        self.check_geometry(file, actual_bytes)
    }

    fn check_geometry(&self, file: FileRole, actual_bytes: u64) -> Result<Geometry, RingError> {
        let geometry = Geometry::new(file, self.slots, self.slot_bytes)?;
        let implied = [
            ("ring_entries", u64::from(self.ring_entries), u64::from(geometry.ring_entries)),
            ("slot_stride", self.slot_stride, geometry.slot_stride),
            ("ring_offset", self.ring_offset, geometry.ring_offset),
            ("slots_offset", self.slots_offset, geometry.slots_offset),
            ("file_bytes", self.file_bytes, geometry.file_bytes),
        ];
        for (field, found, expected) in implied {
            if found != expected {
                return Err(RingError::BadGeometry { file, field, found, expected });
            }
        }
        if actual_bytes < geometry.file_bytes {
            return Err(RingError::Truncated { file, bytes: actual_bytes, needed: geometry.file_bytes });
        }
        // 2^63 positions are out of reach; below, no arithmetic on them can overflow.
        if self.start_position > u64::MAX / 2 {
            let found = self.start_position;
            return Err(RingError::BadGeometry { file, field: "start_position", found, expected: 0 });
        }
        Ok(geometry)
    }
}

fn header_hash(bytes: &[u8; HEADER_BYTES]) -> u64 {
    fnv1a(FNV_OFFSET, &bytes[..HEADER_BYTES - 8])
}
