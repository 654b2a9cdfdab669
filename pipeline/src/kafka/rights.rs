//! What this user may do with topics and groups, as the brokers say: asked before anything is written, so that a right
//! that is missing shows without leaving a message behind.
//!
//! The only module of this crate with `unsafe`: rdkafka has no function for these two questions, so librdkafka's own are
//! called. What they return is owned by small types that give it back once, and nothing of it outlives them.
#![allow(unsafe_code)]

use std::ffi::{CString, c_char};
use std::ptr;

use rd::rd_kafka_AclOperation_t as Acl;
use rdkafka::ClientContext;
use rdkafka::bindings as rd;
use rdkafka::client::Client;
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::types::{RDKafka, RDKafkaRespErr};

use super::ask::PATIENCE;

/// An operation that a right is given for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Read,
    Write,
    Describe,
}

impl Operation {
    /// As `kafka-acls.sh --operation` takes it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Operation::Read => "Read",
            Operation::Write => "Write",
            Operation::Describe => "Describe",
        }
    }
}

/// What may be done with one thing.
pub(crate) type Rights = Result<Vec<Operation>, Code>;

/// What may be done with topics, by name. Blocks.
pub(crate) fn of_topics<C: ClientContext>(client: &Client<C>, names: &[String]) -> Result<Vec<Rights>, Code> {
    let client = client.native_ptr();
    let names: Vec<CString> = names.iter().map(|name| text(name)).collect::<Result<_, _>>()?;
    let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    let (queue, options) = unsafe {
        (Queue::new(client), Options::new(client, rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS)?)
    };
    let event = unsafe {
        let topics = rd::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
        rd::rd_kafka_DescribeTopics(client, topics, options.0, queue.0);
        rd::rd_kafka_TopicCollection_destroy(topics);
        queue.wait()?
    };
    unsafe {
        let result = rd::rd_kafka_event_DescribeTopics_result(event.0);
        if result.is_null() {
            return Err(Code::Fail);
        }
        let mut count = 0;
        let topics = rd::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        Ok(slice(topics.cast_const(), count)
            .iter()
            .map(|topic| {
                check(rd::rd_kafka_error_code(rd::rd_kafka_TopicDescription_error(*topic)))?;
                let mut count = 0;
                let operations = rd::rd_kafka_TopicDescription_authorized_operations(*topic, &mut count);
                Ok(known(slice(operations, count)))
            })
            .collect())
    }
}

/// What may be done with a consumer group, which need not exist. Blocks.
pub(crate) fn of_group<C: ClientContext>(client: &Client<C>, group: &str) -> Rights {
    let client = client.native_ptr();
    let group = text(group)?;
    let mut pointers = [group.as_ptr()];
    unsafe {
        let queue = Queue::new(client);
        let options = Options::new(client, rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS)?;
        rd::rd_kafka_DescribeConsumerGroups(client, pointers.as_mut_ptr(), pointers.len(), options.0, queue.0);
        let event = queue.wait()?;
        let result = rd::rd_kafka_event_DescribeConsumerGroups_result(event.0);
        if result.is_null() {
            return Err(Code::Fail);
        }
        let mut count = 0;
        let groups = rd::rd_kafka_DescribeConsumerGroups_result_groups(result, &mut count);
        let Some(group) = slice(groups.cast_const(), count).first() else { return Err(Code::Fail) };
        check(rd::rd_kafka_error_code(rd::rd_kafka_ConsumerGroupDescription_error(*group)))?;
        let mut count = 0;
        let operations = rd::rd_kafka_ConsumerGroupDescription_authorized_operations(*group, &mut count);
        Ok(known(slice(operations, count)))
    }
}

/// The operations that greypit cares for.
fn known(operations: &[Acl]) -> Vec<Operation> {
    let known = operations.iter().filter_map(|operation| match operation {
        Acl::RD_KAFKA_ACL_OPERATION_READ => Some(Operation::Read),
        Acl::RD_KAFKA_ACL_OPERATION_WRITE => Some(Operation::Write),
        Acl::RD_KAFKA_ACL_OPERATION_DESCRIBE => Some(Operation::Describe),
        _ => None,
    });
    known.collect()
}

fn text(name: &str) -> Result<CString, Code> {
    CString::new(name).map_err(|_| Code::InvalidArgument)
}

fn check(code: RDKafkaRespErr) -> Result<(), Code> {
    match code {
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
        code => Err(code.into()),
    }
}

/// # Safety
/// `pointer` is null or the start of `count` values that live as long as `'a`.
unsafe fn slice<'a, T>(pointer: *const T, count: usize) -> &'a [T] {
    match pointer.is_null() {
        true => &[],
        false => unsafe { std::slice::from_raw_parts(pointer, count) },
    }
}

/// Where an answer arrives.
struct Queue(*mut rd::rd_kafka_queue_t);

impl Queue {
    unsafe fn new(client: *mut RDKafka) -> Queue {
        Queue(unsafe { rd::rd_kafka_queue_new(client) })
    }

    unsafe fn wait(&self) -> Result<Event, Code> {
        // Longer than the question itself may take, so that its own end is what is seen.
        let wait = i32::try_from(2 * PATIENCE.as_millis()).unwrap_or(i32::MAX);
        let event = Event(unsafe { rd::rd_kafka_queue_poll(self.0, wait) });
        if event.0.is_null() {
            return Err(Code::OperationTimedOut);
        }
        check(unsafe { rd::rd_kafka_event_error(event.0) })?;
        Ok(event)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        unsafe { rd::rd_kafka_queue_destroy(self.0) }
    }
}

struct Event(*mut rd::rd_kafka_event_t);

impl Drop for Event {
    fn drop(&mut self) {
        // Null is allowed.
        unsafe { rd::rd_kafka_event_destroy(self.0) }
    }
}

struct Options(*mut rd::rd_kafka_AdminOptions_t);

impl Options {
    unsafe fn new(client: *mut RDKafka, question: rd::rd_kafka_admin_op_t) -> Result<Options, Code> {
        let wait = i32::try_from(PATIENCE.as_millis()).unwrap_or(i32::MAX);
        unsafe {
            let options = Options(rd::rd_kafka_AdminOptions_new(client, question));
            check(rd::rd_kafka_AdminOptions_set_request_timeout(options.0, wait, ptr::null_mut(), 0))?;
            let error = rd::rd_kafka_AdminOptions_set_include_authorized_operations(options.0, 1);
            if !error.is_null() {
                let code = check(rd::rd_kafka_error_code(error));
                rd::rd_kafka_error_destroy(error);
                code?;
            }
            Ok(options)
        }
    }
}

impl Drop for Options {
    fn drop(&mut self) {
        unsafe { rd::rd_kafka_AdminOptions_destroy(self.0) }
    }
}
