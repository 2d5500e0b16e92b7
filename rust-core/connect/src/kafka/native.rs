//! What librdkafka can and rdkafka has no name for, or none that takes every input: reads, none of which waits.

#![allow(unsafe_code)]

use std::{
    ffi::CStr,
    ptr::{self, NonNull},
    slice,
};

use rdkafka::{
    TopicPartitionList, bindings,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    message::BorrowedMessage,
    types::RDKafkaRespErr,
};

const NO_ERROR: RDKafkaRespErr = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR;

/// The offset behind a partition's newest message, as the last answer of its broker said; `None`: there was none yet.
pub fn high_watermark<C: ConsumerContext>(consumer: &BaseConsumer<C>, topic: &CStr, partition: i32) -> Option<u64> {
    let (mut low, mut high) = (0, 0);
    // SAFETY: the client lives as long as `consumer`, which is borrowed; the topic ends with a zero; both numbers are ours.
    let error = unsafe {
        let client = consumer.client().native_ptr();
        bindings::rd_kafka_get_watermark_offsets(client, topic.as_ptr(), partition, &mut low, &mut high)
    };
    (error == NO_ERROR).then(|| u64::try_from(high).ok())?
}

/// The offset behind what a partition's queue has given out last, be it a message or the mark that ends a transaction, which
/// nobody is shown; `None`: there was nothing yet.
pub fn position<C: ConsumerContext>(consumer: &BaseConsumer<C>, topic: &CStr, partition: i32) -> Option<u64> {
    // SAFETY: the client lives as long as `consumer`, which is borrowed; the topic ends with a zero; the list is ours, has one
    // element, and is gone afterwards.
    let offset = unsafe {
        let list = bindings::rd_kafka_topic_partition_list_new(1);
        let element = bindings::rd_kafka_topic_partition_list_add(list, topic.as_ptr(), partition);
        bindings::rd_kafka_position(consumer.client().native_ptr(), list);
        let offset = (*element).offset;
        bindings::rd_kafka_topic_partition_list_destroy(list);
        offset
    };
    u64::try_from(offset).ok()
}

/// What stands beside the first offset of a list, be it text or not; empty if there is nothing.
pub fn note(list: &TopicPartitionList) -> &[u8] {
    // SAFETY: the list is borrowed, and nobody changes it; its first element is there if it has one, and so are so many bytes
    // if they are anywhere.
    unsafe {
        let list = &*list.ptr();
        let Some(first) = (list.cnt > 0).then(|| &*list.elems) else { return &[] };
        if first.metadata.is_null() {
            &[]
        } else {
            slice::from_raw_parts(first.metadata.cast::<u8>(), first.metadata_size)
        }
    }
}

/// The value of a message's last header of that name; `None`: there is no such header, or it has no value. Other headers may
/// have names that are no UTF-8, with which rdkafka's own way to them would panic.
pub fn header<'a>(message: &'a BorrowedMessage<'_>, name: &CStr) -> Option<&'a [u8]> {
    let mut headers = ptr::null_mut();
    let (mut value, mut size) = (ptr::null(), 0);
    // SAFETY: the message is borrowed and owns the headers, which nobody changes; the name ends with a zero.
    let error = unsafe {
        if bindings::rd_kafka_message_headers(message.ptr(), &mut headers) != NO_ERROR {
            return None;
        }
        bindings::rd_kafka_header_get_last(headers, name.as_ptr(), &mut value, &mut size)
    };
    let value = NonNull::new(value.cast_mut()).filter(|_| error == NO_ERROR)?;
    // SAFETY: librdkafka gave both, and the bytes live as long as the message.
    Some(unsafe { slice::from_raw_parts(value.as_ptr().cast::<u8>(), size) })
}
