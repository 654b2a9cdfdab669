//! What is done for a lane: questions to Kafka, reading and writing the store.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::{Offset, TopicPartitionList};

use super::super::cut::{Cut, Name, Part, Place};
use super::super::objects::{Growing, Ready};
use super::super::start::{self, Log, Start};
use super::HEALTH;
use super::context::Context;
use crate::upload::{Uploader, jittered, until_done};
use crate::workers::Workers;
use crate::{Error, Result};

/// How long the group's offsets and the log's ends are waited for.
const ASK: Duration = Duration::from_secs(10);

/// How long moving to an offset may take.
const SEEK: Duration = Duration::from_secs(5);

/// Pauses between attempts to find out where a lane begins.
const AGAIN: Duration = Duration::from_secs(2);

pub(super) fn list(place: &Place) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(1);
    list.add_partition(&place.topic, place.partition);
    list
}

pub(super) fn pause(consumer: &BaseConsumer<Context>, place: &Place) {
    if let Err(error) = consumer.pause(&list(place)) {
        tracing::debug!(%error, "kafka: pause");
    }
}

pub(super) fn seek(consumer: &BaseConsumer<Context>, place: &Place, offset: i64) -> KafkaResult<()> {
    let mut list = list(place);
    list.set_all_offsets(Offset::Offset(offset))?;
    let moved = consumer.seek_partitions(list, SEEK)?;
    moved.elements().iter().try_for_each(|one| one.error())
}

pub(super) fn commit(consumer: &BaseConsumer<Context>, place: &Place, offset: i64, cut: Name) -> KafkaResult<()> {
    let mut list = TopicPartitionList::with_capacity(1);
    let mut one = list.add_partition(&place.topic, place.partition);
    one.set_metadata(start::note(cut));
    one.set_offset(Offset::Offset(offset))?;
    consumer.commit(&list, CommitMode::Async)
}

/// Finds out where a lane begins, for as long as it takes.
pub(super) async fn find_start(
    consumer: &Arc<BaseConsumer<Context>>,
    uploader: &Uploader,
    place: &Place,
    not: &[u32],
) -> Start {
    loop {
        let ask = || async { Ok(until_done(&uploader.health, HEALTH, || ask(consumer, place)).await) };
        match start::find(uploader, place, not, ask).await {
            Ok(start) => {
                uploader.health.ok("store");
                let offset = start.base.name.start;
                tracing::debug!(topic = place.topic, partition = place.partition, offset, "kafka: partition begins");
                return start;
            }
            Err(error) => uploader.health.held("store", error.to_string()),
        }
        tokio::time::sleep(jittered(AGAIN)).await;
    }
}

/// Asks Kafka what it knows of a partition.
async fn ask(consumer: &Arc<BaseConsumer<Context>>, place: &Place) -> Result<Log> {
    let (low, high) =
        blocking(consumer, place, |consumer, place| consumer.fetch_watermarks(&place.topic, place.partition, ASK))
            .await?;
    let committed = blocking(consumer, place, |consumer, place| {
        let committed = consumer.committed_offsets(list(place), ASK)?;
        Ok(committed.elements().first().and_then(|one| match one.offset() {
            // A note that somebody else made may be no text, and rdkafka gives no other way to look at it.
            Offset::Offset(offset) => std::panic::catch_unwind(|| (offset, one.metadata().to_owned())).ok(),
            _ => None,
        }))
    })
    .await?;
    Ok(Log { low, high, committed })
}

/// Asks on a thread that may wait.
async fn blocking<T: Send + 'static>(
    consumer: &Arc<BaseConsumer<Context>>,
    place: &Place,
    ask: impl FnOnce(&BaseConsumer<Context>, &Place) -> KafkaResult<T> + Send + 'static,
) -> Result<T> {
    let (consumer, place) = (consumer.clone(), place.clone());
    let asked = tokio::task::spawn_blocking(move || ask(&consumer, &place)).await;
    let failed = |what: String| Error::Kafka { operation: "ask for a partition's offsets", what };
    match asked {
        Ok(answer) => answer.map_err(|error: KafkaError| failed(error.to_string())),
        Err(error) => Err(failed(error.to_string())),
    }
}

/// Puts all objects of a batch.
pub(super) async fn put_objects(
    uploader: &Uploader,
    workers: &Workers,
    place: &Place,
    cut: &Cut,
    objects: Vec<(Part, Growing)>,
) -> Result<()> {
    for (part, growing) in objects {
        let timer = uploader.metrics.encode_seconds.with_label_values(&[cut.form.codec.name()]).start_timer();
        let object = Ready::new(place, cut, &part, growing, workers).await?;
        timer.observe_duration();
        uploader.metrics.ship_in_flight.inc();
        object.put(uploader, place).await;
        uploader.metrics.ship_in_flight.dec();
    }
    Ok(())
}
