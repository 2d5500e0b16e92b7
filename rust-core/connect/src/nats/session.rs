//! A connection to the servers, and the thread that reads through it.

use std::{io, pin::pin, sync::Arc, thread, time::SystemTime};

use async_nats::{
    datetime,
    jetstream::{self, Context, consumer::DeliverPolicy},
};
use futures_util::future::{join, select};
use tokio::runtime::{Builder, Runtime};

use super::{
    NatsSpec, NatsStart,
    delivery::Delivery,
    durable::Coverage,
    extent::Extent,
    options::{connect, refuse},
    queue::Queue,
    reader::{Mark, Reader, Trouble},
};
use crate::ConnectError;

/// A connection, and the runtime that drives it.
pub struct Session {
    runtime: Runtime,
    context: Context,
    spec: NatsSpec,
}

impl Session {
    /// Connects; fails if no server answers.
    pub fn open(spec: &NatsSpec) -> Result<Session, ConnectError> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| refuse(&spec.servers, error.to_string()))?;
        let context = runtime.block_on(async { connect(&spec.servers).await.map(jetstream::new) })?;
        Ok(Session { runtime, context, spec: spec.clone() })
    }

    /// Which messages the stream has; refused if it is not there, or not one that can be read again.
    pub fn extent(&self) -> Result<Extent, ConnectError> {
        let looked = self.runtime.block_on(Extent::look(&self.context, &self.spec.stream));
        looked.map_err(|trouble| self.refuse(trouble))
    }

    /// The number of the first message where reading begins without a checkpoint.
    pub fn begin(&self, extent: &Extent) -> Result<u64, ConnectError> {
        let time_ns = match self.spec.start {
            NatsStart::Earliest => return Ok(extent.first),
            NatsStart::Latest => return Ok(extent.end),
            NatsStart::Time(time_ns) => time_ns,
        };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        if u128::try_from(time_ns).is_ok_and(|time_ns| time_ns > now.as_nanos()) {
            return Err(refuse(&self.spec.servers, "the time to start at is still to come".to_owned()));
        }
        let start_time = datetime::from_nanos(time_ns.into());
        let start_time = start_time.map_err(|error| refuse(&self.spec.servers, error.to_string()))?;
        let policy = DeliverPolicy::ByStartTime { start_time };
        let found = self.runtime.block_on(Delivery::first(&self.context, &self.spec, policy));
        found.map_err(|trouble| self.refuse(trouble))
    }

    /// Reads from there on, until the queue is at its end.
    pub fn start(self, mark: Mark, queue: &Arc<Queue>, coverage: &Arc<Coverage>) -> io::Result<()> {
        let (queue, coverage) = (Arc::clone(queue), Arc::clone(coverage));
        let Session { runtime, context, spec } = self;
        let read = move || {
            let is_told = spec.durable.is_some();
            let mut reader = Reader::new(context, spec, mark, Arc::clone(&coverage));
            let read = async {
                let tell = async {
                    if is_told {
                        coverage.acknowledge().await
                    }
                };
                join(reader.run(&queue), tell).await;
            };
            runtime.block_on(select(pin!(queue.ended()), pin!(read)));
            runtime.shutdown_background();
        };
        thread::Builder::new().name("nats".to_owned()).spawn(read).map(drop)
    }

    fn refuse(&self, trouble: Trouble) -> ConnectError {
        let (Trouble::Passing(reason) | Trouble::Lasting(reason)) = trouble;
        refuse(&self.spec.servers, reason)
    }
}
