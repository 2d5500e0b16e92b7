//! What `ringmill inspect` prints of a live run: figures of each channel, and rates from two looks.

use ringmill_engine::rundir::{ClientError, connect};
use ringmill_ring::{Inspection, inspect};
use serde::Serialize;

use crate::table::TextTable;
use crate::units::{grouped, scaled};

use std::path::Path;

/// A run at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct RunView {
    /// The pipeline's name.
    pub pipeline: String,
    /// The core process.
    pub pid: u32,
    /// Its channels.
    pub channels: Vec<ChannelView>,
}

/// A channel at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct ChannelView {
    /// The worker: `step/shard/index`.
    pub worker: String,
    /// The worker's process.
    pub pid: i32,
    /// Batches published a second, since the look before.
    pub submissions_per_second: Option<f64>,
    /// Batches answered a second, since the look before.
    pub completions_per_second: Option<f64>,
    /// What stands in the channel.
    #[serde(flatten)]
    pub inspection: Option<Inspection>,
    /// Why it could not be read.
    pub error: Option<String>,
}

impl RunView {
    /// Looks at the run in this folder.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn take(folder: &Path) -> Result<RunView, ClientError> {
        let run = connect(folder)?;
        let channels = run.channels.into_iter().map(|channel| {
            let (inspection, error) = match inspect(&channel.request, &channel.response) {
                Ok(inspection) => (Some(inspection), None),
                Err(error) => (None, Some(error.to_string())),
            };
            ChannelView {
                worker: channel.name,
                pid: channel.pid,
                submissions_per_second: None,
                completions_per_second: None,
                inspection,
                error,
            }
        });
        Ok(RunView { pipeline: run.greeting.pipeline, pid: run.greeting.pid, channels: channels.collect() })
    }

    /// Fills in the rates since `before`.
    pub fn rated(mut self, before: &RunView) -> RunView {
        for channel in &mut self.channels {
            let old = before.channels.iter().find(|old| old.worker == channel.worker && old.pid == channel.pid);
            let (Some(now), Some(old)) = (&channel.inspection, old.and_then(|old| old.inspection.as_ref())) else {
                continue;
            };
            let seconds = now.taken_ns.saturating_sub(old.taken_ns) as f64 / 1e9;
            if seconds > 0.0 {
                let rate = |now: u64, old: u64| Some(now.saturating_sub(old) as f64 / seconds);
                channel.submissions_per_second = rate(now.submissions.published, old.submissions.published);
                channel.completions_per_second = rate(now.completions.published, old.completions.published);
            }
        }
        self
    }

    /// The text that a person reads.
    pub fn text(&self) -> String {
        let mut lines = vec![format!("{} (process {})", self.pipeline, self.pid)];
        if self.channels.is_empty() {
            lines.push("  no workers".to_owned());
        }
        for channel in &self.channels {
            lines.push(String::new());
            lines.push(format!("{} (process {})", channel.worker, channel.pid));
            match (&channel.inspection, &channel.error) {
                (Some(inspection), _) => lines.extend(channel_lines(channel, inspection)),
                (None, error) => lines.push(format!("  cannot be read: {}", error.as_deref().unwrap_or("?"))),
            }
        }
        lines.push(String::new());
        lines.join("\n")
    }
}

fn channel_lines(channel: &ChannelView, seen: &Inspection) -> Vec<String> {
    let in_use = seen.slots.saturating_sub(seen.slots_free);
    let state = |sleeping: bool| if sleeping { "asleep" } else { "awake" };
    let mut table = TextTable::new(["ring", "published", "read", "unread", "entries", "per second"]);
    let rings = [
        ("submission", &seen.submissions, channel.submissions_per_second),
        ("completion", &seen.completions, channel.completions_per_second),
    ];
    for (name, ring, rate) in rings {
        table.push([
            name.to_owned(),
            grouped(ring.published),
            grouped(ring.read),
            grouped(ring.unread),
            grouped(u64::from(ring.entries)),
            rate.map_or_else(|| "-".to_owned(), scaled),
        ]);
    }
    let heartbeat = match seen.worker.heartbeat_ns {
        0 => "no heartbeat yet".to_owned(),
        at => format!("heartbeat {} ago", crate::units::latency(seen.taken_ns.saturating_sub(at))),
    };
    let mut lines = table.lines();
    lines.push(format!("  slots   {in_use} of {} in use, {} leased", seen.slots, seen.slots_leased));
    lines.push(format!("  core    {}", state(seen.core_sleeping)));
    lines.push(format!(
        "  worker  {}, batch {}, {heartbeat}",
        state(seen.worker.sleeping),
        grouped(seen.worker.current_batch)
    ));
    lines.push(format!(
        "  channel protocol {}, generation {}, slots of {} and {}",
        seen.version,
        seen.generation,
        crate::units::bytes(seen.request.slot_bytes),
        crate::units::bytes(seen.response.slot_bytes)
    ));
    lines
}
