//! What a pipeline promises about crashes, part by part, in words.

use ringmill_connect::{
    HttpSink, KafkaSpec, KafkaStart, MqttQuality, MqttSink, MqttSpec, NatsSpec, NatsStart, Promise, Replay, WriteMode,
};
use ringmill_engine::Plan;
use ringmill_engine::plan::dead_letter_store::stored_node;
use ringmill_engine::plan::{
    CheckpointSpec, Node, NodeKind, OnError, SinkSpec, SourceConnector, SourceSpec, UdfDescription, UdfKind, UdfSpec,
};

use crate::config::duration::format_duration;
use crate::retention;
use crate::units::bytes;

/// What belongs to one node, a line each.
pub fn of_node(plan: &Plan, node: &Node) -> Vec<String> {
    let has_checkpoints = plan.checkpoint.is_some();
    match &node.kind {
        NodeKind::Source(source) if has_checkpoints => vec![of_source(&source.connector).to_owned()],
        NodeKind::Source(SourceSpec { connector: SourceConnector::Http(_), .. }) => {
            vec![
                "a request is answered with 202 when the pipeline has taken its rows, and a crash loses them"
                    .to_owned(),
            ]
        }
        NodeKind::Source(SourceSpec { connector: SourceConnector::Producer(_), .. }) => {
            vec!["what was sent counts at most once: a crash loses it".to_owned()]
        }
        NodeKind::Udf(udf) => of_udf(node, udf, has_checkpoints),
        NodeKind::Sink(sink) => {
            let mut lines: Vec<String> = of_sink(sink, has_checkpoints).into_iter().map(str::to_owned).collect();
            lines
                .extend(stored_node(&node.name).map(|_| "the built-in store: `ringmill dlq show` reads it".to_owned()));
            lines.extend(sink.has_letters().then(|| {
                format!(
                    "rows that it refuses for good are dead letters of {}: `ringmill dlq show` reads them",
                    node.name
                )
            }));
            lines.extend(retention::of_sink(plan, node, sink));
            lines
        }
        NodeKind::Source(_) | NodeKind::EventType(_) | NodeKind::Window(_) | NodeKind::Filter(_) => Vec::new(),
    }
}

fn of_source(connector: &SourceConnector) -> &'static str {
    match (connector.replay(), connector) {
        (_, SourceConnector::Kafka(spec)) if spec.membership().is_some() => {
            "after a crash each partition is read again from what its group was told of a checkpoint on, by whichever member has \
             it then: at least once; a partition that is handed over comes once"
        }
        (Replay::Seekable, SourceConnector::Kafka(KafkaSpec { start: KafkaStart::Latest, .. })) => {
            "after a crash it is read again from the newest checkpoint on; before the first one, from where the topics end then"
        }
        (Replay::Seekable, SourceConnector::Nats(NatsSpec { start: NatsStart::Latest, .. })) => {
            "after a crash it is read again from the newest checkpoint on; before the first one, from where the stream ends then"
        }
        (Replay::Seekable, SourceConnector::Python(_)) => {
            "after a crash it seeks the position of the newest checkpoint and is read on: each row once, as exactly as its seek() goes back"
        }
        (Replay::Lost, SourceConnector::Python(_)) => {
            "it has no seek(): what was polled and is not in a checkpoint is lost in a crash, and what its process has made ahead \
             if that dies"
        }
        (Replay::Seekable, SourceConnector::Producer(_)) => {
            "after a crash its producers are told the position of the newest checkpoint: each row once, if they go on behind it \
             with the same rows"
        }
        (Replay::Lost, SourceConnector::Producer(_)) => {
            "what was sent and is not in a checkpoint is lost in a crash; with replayable = true producers are told where to go on"
        }
        (Replay::Seekable, _) => "after a crash it is read again from the newest checkpoint on",
        (Replay::Lost, _) => "what was read after the newest checkpoint is lost in a crash: it comes only once",
        (Replay::Journaled, SourceConnector::Socket(_)) => {
            "journaled: after a crash it is read again from the journal; what was sent and was not on the disk yet is \
             lost: senders are not told how far it got"
        }
        (Replay::Journaled, SourceConnector::Http(_)) => {
            "journaled: a request is answered with 202 when its rows are on the disk, all or none, and none of them is \
             lost; one that is sent again because there was no answer may be there twice"
        }
        (Replay::Journaled, SourceConnector::Mqtt(MqttSpec { is_acknowledged: true, .. })) => {
            "journaled, and acknowledged when it is on the disk: after a crash it is read again from the journal; a message \
             that was not acknowledged yet comes again"
        }
        (Replay::Journaled, SourceConnector::Mqtt(_)) => {
            "journaled: after a crash it is read again from the journal; with qos = 0 the broker sends each message once, \
             whether it arrives or not"
        }
        (Replay::Journaled, SourceConnector::NatsCore(_)) => {
            "journaled: after a crash it is read again from the journal; a message that comes while nobody is there, faster than \
             it is taken or just before a crash is lost: the servers keep none"
        }
        (Replay::Journaled, _) => {
            "journaled: after a crash it is read again from the journal; what was taken from the pipe and was not on the \
             disk yet is lost"
        }
    }
}

fn of_sink(sink: &SinkSpec, has_checkpoints: bool) -> Option<&'static str> {
    match (has_checkpoints, sink.promise(), sink) {
        (_, _, SinkSpec::Null) => None,
        (true, Promise::ExactlyOnce, SinkSpec::Http(_)) => {
            Some("exactly once, as the server knows keys: rows are sent when their checkpoint is complete")
        }
        (true, _, SinkSpec::Http(HttpSink { is_at_once: true, .. })) => {
            Some("at least once: rows are sent as they come, and those since the newest checkpoint again after a crash")
        }
        (true, _, SinkSpec::Http(_)) => Some(
            "at least once: rows are sent when their checkpoint is complete, and after a crash those of the interrupted \
             one again, with the same Idempotency-Key",
        ),
        (true, Promise::ExactlyOnce, SinkSpec::Python(_)) => Some(
            "exactly once, as the class makes the same of rows that come again: it is given them when their checkpoint is complete",
        ),
        (true, _, SinkSpec::Python(_)) => Some(
            "at least once: the class is given rows when their checkpoint is complete, and after a crash those of the interrupted \
             one again, with the same identities",
        ),
        (true, _, SinkSpec::Nats(_)) => Some(
            "at least once: rows are sent when their checkpoint is complete, and after a crash those of the interrupted one \
             again, with the same Nats-Msg-Id, so that the stream drops those that it has had within its duplicate_window",
        ),
        (true, _, SinkSpec::File(sink)) if sink.rolling.interval.is_some() => Some(
            "exactly once: rows show when their file is complete, with the first checkpoint of a run after `roll_interval`, \
             or sooner",
        ),
        (true, Promise::ExactlyOnce, SinkSpec::Kafka(_)) => Some(
            "exactly once, for those who read what is committed (isolation.level = read_committed): the rows of a checkpoint are \
             one transaction, which is sent when it is complete",
        ),
        (true, Promise::ExactlyOnce, _) => Some("exactly once: rows show when their checkpoint is complete"),
        (true, _, SinkSpec::NatsCore(_)) => Some(
            "rows show at once to those who are there, and those since the newest checkpoint again after a crash; those on \
             their way when the connection breaks are lost",
        ),
        (true, Promise::AtMostOnce, SinkSpec::Mqtt(_)) => Some(
            "rows show at once, and those since the newest checkpoint again after a crash; with qos = 0 nobody says whether they \
             arrive, and those on their way when the connection breaks are lost",
        ),
        (true, _, SinkSpec::Mqtt(MqttSink { quality: MqttQuality::ExactlyOnce, .. })) => Some(
            "at least once: rows show at once, each once as long as the broker keeps the session, and those since the newest \
             checkpoint again after a crash",
        ),
        (true, Promise::AtLeastOnce | Promise::AtMostOnce, _) => {
            Some("at least once: rows show at once, and those since the newest checkpoint again after a crash")
        }
        (false, _, SinkSpec::File(_)) => Some("written anew by every run"),
        (false, _, SinkSpec::Postgres(sink)) if matches!(sink.mode, WriteMode::Upsert(_)) => {
            Some("every run writes its rows, each in the place of the one with its key")
        }
        (false, _, SinkSpec::Http(_) | SinkSpec::Nats(_)) => Some("rows are sent as they come, again by every run"),
        (false, _, SinkSpec::Python(_)) => {
            Some("the class is given rows as they come, with other identities in every run")
        }
        (false, _, SinkSpec::Sqlite { .. } | SinkSpec::Postgres(_)) => {
            Some("every run adds its rows, also those that an earlier run has added")
        }
        (
            false,
            _,
            SinkSpec::Kafka(_)
            | SinkSpec::Mqtt(_)
            | SinkSpec::NatsCore(_)
            | SinkSpec::Stdout { .. }
            | SinkSpec::Retained(_),
        ) => None,
    }
}

fn of_udf(node: &Node, udf: &UdfSpec, has_checkpoints: bool) -> Vec<String> {
    let watch = &udf.supervision;
    let none = || "none".to_owned();
    let duration = |ns: u64| format_duration(i64::try_from(ns).unwrap_or(i64::MAX));
    let failing = match udf.on_error {
        OnError::Stop => "end the run".to_owned(),
        OnError::Skip => "are left out and counted".to_owned(),
        OnError::DeadLetter => format!("go to {}.dead_letters", node.name),
    };
    let retries = match watch.retries {
        0 => String::new(),
        1 => ", after 1 retry".to_owned(),
        retries => format!(", after {retries} retries"),
    };
    let mut lines = vec![
        format!("rows that fail or kill their worker {failing}{retries}"),
        format!(
            "timeout {}, to get ready {}, memory limit {}",
            watch.timeout_ns.map_or_else(none, duration),
            duration(watch.restart.start_ns_max),
            watch.memory_bytes_max.map_or_else(none, bytes)
        ),
    ];
    lines.extend(of_memory(udf, has_checkpoints));
    lines
}

/// What becomes of what a function keeps.
fn of_memory(udf: &UdfSpec, has_checkpoints: bool) -> Vec<String> {
    let UdfDescription { name, state, snapshot, kind, .. } = &udf.description;
    let mut lines = Vec::new();
    if !state.is_empty() {
        let columns = state.iter().map(|field| field.name.as_str()).collect::<Vec<_>>().join(", ");
        let checkpoints = if has_checkpoints { ", in every checkpoint" } else { "" };
        lines.push(format!("{columns}: kept for each {}{checkpoints}", udf.key.join(", ")));
    }
    match (kind, snapshot) {
        (UdfKind::Class, false) => lines.push(format!("note: what {name} keeps in `self` dies with its worker")),
        (UdfKind::Class, true) if has_checkpoints => {
            lines.push(format!("what {name} keeps in `self` outlives its worker and is in every checkpoint"));
        }
        (UdfKind::Class, true) => {
            lines.push(format!("note: what {name} keeps in `self` outlives its worker and dies with the run"));
        }
        (UdfKind::Function, _) => {}
    }
    lines
}

/// What belongs to the pipeline as a whole.
pub fn of_plan(plan: &Plan) -> Vec<String> {
    let mut lines = match &plan.checkpoint {
        Some(checkpoint) => vec![checkpoints(checkpoint), end_to_end(plan)],
        None => vec!["no [checkpoint]: a run that dies begins anew".to_owned()],
    };
    if plan.nodes.iter().any(|node| matches!(node.kind, NodeKind::Udf(_))) {
        lines.push(
            "note: when a worker or the core dies, functions are called again for rows that they have seen".to_owned(),
        );
    }
    lines
}

/// What sources and sinks promise together, in a sentence.
fn end_to_end(plan: &Plan) -> String {
    let names = |is_meant: fn(&NodeKind) -> bool| {
        let meant = plan.nodes.iter().filter(|node| is_meant(&node.kind)).map(|node| node.name.as_str());
        Some(meant.collect::<Vec<_>>().join(" and ")).filter(|names| !names.is_empty())
    };
    let mut sentence = "end to end: whatever dies, each record counts ".to_owned();
    let shown_again = names(|kind| matches!(kind, NodeKind::Sink(sink) if sink.promise() < Promise::ExactlyOnce));
    let dealt_again = names(|kind| matches!(kind, NodeKind::Source(source) if is_dealt(&source.connector)));
    let shown_again = shown_again.map(|sinks| format!("{sinks} may show rows again"));
    let dealt_again = dealt_again.map(|sources| format!("other members of its group may read rows of {sources} again"));
    let reasons: Vec<String> = [shown_again, dealt_again].into_iter().flatten().collect();
    match reasons.as_slice() {
        [] => sentence += "exactly once",
        reasons => sentence += &format!("at least once, since {}", reasons.join(" and ")),
    }
    if let Some(sinks) = names(|kind| matches!(kind, NodeKind::Sink(sink) if sink.promise() == Promise::AtMostOnce)) {
        sentence += &format!("; {sinks} may lose some");
    }
    if let Some(sources) = names(|kind| replay(kind) == Some(Replay::Journaled)) {
        sentence += &format!("; of {sources}, each that was on the disk");
    }
    if let Some(sources) = names(|kind| replay(kind) == Some(Replay::Lost)) {
        sentence += &format!("; of {sources}, each that is in a checkpoint");
    }
    sentence
}

/// Whether a group deals its partitions.
fn is_dealt(connector: &SourceConnector) -> bool {
    matches!(connector, SourceConnector::Kafka(spec) if spec.membership().is_some())
}

fn replay(kind: &NodeKind) -> Option<Replay> {
    match kind {
        NodeKind::Source(source) => Some(source.connector.replay()),
        _ => None,
    }
}

fn checkpoints(checkpoint: &CheckpointSpec) -> String {
    let interval = format_duration(i64::try_from(checkpoint.interval_ns).unwrap_or(i64::MAX));
    format!("checkpoints: every {interval} to {}, {} kept", checkpoint.path.display(), checkpoint.keep)
}
