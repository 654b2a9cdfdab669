//! The one door into the pipeline: a queue bounded by bytes in front of the spool's writer.
//!
//! Two verbs. [`Submit::submit`] waits for room: for sources that can be made to wait (a file, a TCP connection).
//! [`Submit::try_submit`] never waits and gives the group back when the queue is full: for sources that cannot (the
//! milter, UDP), which count what they then drop. Room comes back when the spool has fsynced a group, not before, so
//! the queue's limit is also the limit of what a power cut can take.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use tokio::sync::{Semaphore, oneshot};

use crate::event::Group;
use crate::{Error, Result};

/// What the spool's writer receives.
#[derive(Debug)]
pub(crate) enum Message {
    Group(Group, Room),
    /// Answered when everything before it is durable.
    Barrier(oneshot::Sender<()>),
}

/// A share of the queue; dropping it gives the share back.
#[derive(Debug)]
pub(crate) struct Room {
    shared: Arc<Shared>,
    bytes: u32,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.shared.queued_bytes.fetch_sub(u64::from(self.bytes), Ordering::Relaxed);
        self.shared.room.add_permits(self.bytes as usize);
    }
}

#[derive(Debug)]
struct Shared {
    room: Semaphore,
    limit_bytes: u32,
    queued_bytes: AtomicU64,
}

/// A clonable handle; the pipeline ends once the last one is dropped.
#[derive(Clone, Debug)]
pub struct Submit {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Message>,
}

/// Why [`Submit::try_submit`] gave a group back.
#[derive(Debug)]
pub enum Refused {
    /// The queue is full: the disk is slow, full, or `spool.max_bytes` is reached.
    Full(Group),
    /// The pipeline is shutting down.
    Closed(Group),
}

impl Submit {
    pub(crate) fn new(limit_bytes: u32) -> (Submit, mpsc::Receiver<Message>) {
        let (queue, receiver) = mpsc::channel();
        let room = Semaphore::new(limit_bytes as usize);
        let shared = Arc::new(Shared { room, limit_bytes, queued_bytes: AtomicU64::new(0) });
        (Submit { shared, queue }, receiver)
    }

    /// Queues a group, waiting for room. Returning does not mean durable; see [`Submit::durable`].
    ///
    /// # Errors
    /// [`Error::Closed`] when the pipeline has ended.
    pub async fn submit(&self, group: Group) -> Result<()> {
        let bytes = self.charge(&group);
        let permit = self.shared.room.acquire_many(bytes).await.map_err(|_| Error::Closed)?;
        permit.forget();
        self.send(group, bytes).map_err(|_| Error::Closed)
    }

    /// Queues a group if there is room now.
    ///
    /// # Errors
    /// Gives the group back in [`Refused`].
    #[allow(clippy::result_large_err)]
    pub fn try_submit(&self, group: impl Into<Group>) -> std::result::Result<(), Refused> {
        let group = group.into();
        let bytes = self.charge(&group);
        match self.shared.room.try_acquire_many(bytes) {
            Ok(permit) => permit.forget(),
            Err(_) => return Err(Refused::Full(group)),
        }
        self.send(group, bytes).map_err(Refused::Closed)
    }

    /// Waits until everything that was submitted before this call is fsynced.
    ///
    /// # Errors
    /// [`Error::Closed`] when the pipeline ended before that.
    pub async fn durable(&self) -> Result<()> {
        let (answer, durable) = oneshot::channel();
        self.queue.send(Message::Barrier(answer)).map_err(|_| Error::Closed)?;
        durable.await.map_err(|_| Error::Closed)
    }

    /// Bytes that wait for the spool, and their limit.
    pub fn queue_bytes(&self) -> (u64, u64) {
        (self.shared.queued_bytes.load(Ordering::Relaxed), u64::from(self.shared.limit_bytes))
    }

    /// Reads [`Submit::queue_bytes`] without keeping the pipeline from ending.
    pub(crate) fn observer(&self) -> impl Fn() -> u64 + Send + Sync + use<> {
        let shared = self.shared.clone();
        move || shared.queued_bytes.load(Ordering::Relaxed)
    }

    /// A group larger than the whole queue may still pass when the queue is empty.
    fn charge(&self, group: &Group) -> u32 {
        u32::try_from(group.bytes()).unwrap_or(u32::MAX).min(self.shared.limit_bytes)
    }

    fn send(&self, group: Group, bytes: u32) -> std::result::Result<(), Group> {
        self.shared.queued_bytes.fetch_add(u64::from(bytes), Ordering::Relaxed);
        let room = Room { shared: self.shared.clone(), bytes };
        self.queue.send(Message::Group(group, room)).map_err(|mpsc::SendError(message)| match message {
            Message::Group(group, _) => group,
            Message::Barrier(_) => Group::new(),
        })
    }
}

/// For tests of collectors: the queue without a pipeline behind it.
#[cfg(feature = "testing")]
pub mod testing {
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    use super::{Message, Submit};
    use crate::event::Group;

    /// The end of the queue where the spool's writer would be.
    #[derive(Debug)]
    pub struct Queue(mpsc::Receiver<Message>);

    /// A [`Submit`] whose queue holds `limit_bytes`, and its other end.
    pub fn queue(limit_bytes: u32) -> (Submit, Queue) {
        let (submit, receiver) = Submit::new(limit_bytes);
        (submit, Queue(receiver))
    }

    impl Queue {
        /// The next group; `None` when none comes within `wait` or every [`Submit`] is gone. Taking a group gives its
        /// room back. Blocks the thread: where a runtime runs, call it from outside of its workers.
        pub fn next(&self, wait: Duration) -> Option<Group> {
            let until = Instant::now() + wait;
            loop {
                match self.0.recv_timeout(until.saturating_duration_since(Instant::now())) {
                    Ok(Message::Group(group, _room)) => return Some(group),
                    Ok(Message::Barrier(answer)) => drop(answer.send(())),
                    Err(_) => return None,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, Kind};

    fn event(bytes: usize) -> Event {
        let mut body = vec![b' '; bytes];
        body[0] = b'{';
        body[bytes - 1] = b'}';
        Event { kind: Kind::new("to"), body }
    }

    #[tokio::test]
    async fn a_full_queue_gives_the_group_back_and_room_returns_with_the_message() {
        let (submit, queue) = Submit::new(1000);
        submit.try_submit(event(900)).unwrap();
        match submit.try_submit(event(900)) {
            Err(Refused::Full(group)) => assert_eq!(group.len(), 1),
            other => panic!("{other:?}"),
        }
        drop(queue.recv().unwrap());
        submit.try_submit(event(900)).unwrap();
        assert_eq!(submit.queue_bytes(), (905, 1000));
    }

    #[tokio::test]
    async fn submit_waits_for_room_and_a_group_above_the_limit_still_passes() {
        let (submit, queue) = Submit::new(1000);
        submit.submit(event(5000).into()).await.unwrap();
        let waiting = tokio::spawn({
            let submit = submit.clone();
            async move { submit.submit(event(10).into()).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(queue.recv().unwrap());
        waiting.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn an_ended_pipeline_says_so() {
        let (submit, queue) = Submit::new(1000);
        drop(queue);
        assert!(matches!(submit.submit(event(10).into()).await, Err(Error::Closed)));
        assert!(matches!(submit.try_submit(event(10)), Err(Refused::Closed(_))));
        assert!(matches!(submit.durable().await, Err(Error::Closed)));
    }
}
