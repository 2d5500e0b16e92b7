//! Windows without any cleverness: every row is kept, every result computed anew from its rows.

use std::collections::{BTreeMap, HashMap};

use ringmill_engine::window::{WindowKind, WindowSpec};

use super::{Row, TIME, Value, input_schema};

const MS: i64 = 1_000_000;

type Key = String;

#[derive(Clone, Default)]
struct Shown {
    summary: Option<(u64, f64, f64)>,
    contributed: Option<(i64, f64)>,
}

/// One key's rows in one window, each with its number.
#[derive(Clone, Default)]
struct Group {
    key: Key,
    start: i64,
    end: i64,
    rows: Vec<(u64, Row)>,
    shown: Shown,
    fired: bool,
    pending: bool,
}

pub struct Oracle {
    spec: WindowSpec,
    watermark: i64,
    count: u64,
    /// Aligned windows by start, groups in the order of arrival.
    aligned: BTreeMap<i64, Vec<Group>>,
    sessions: Vec<Group>,
    histories: HashMap<Key, Vec<(i64, f64)>>,
    queue: Vec<(i64, Key)>,
    pub results: Vec<Row>,
    pub late: Vec<Row>,
    /// The canary: counts a row at a window's end to that window.
    pub broken: bool,
}

impl Oracle {
    pub fn new(spec: &WindowSpec) -> Self {
        Self {
            spec: spec.clone(),
            watermark: i64::MIN,
            count: 0,
            aligned: BTreeMap::new(),
            sessions: Vec::new(),
            histories: HashMap::new(),
            queue: Vec::new(),
            results: Vec::new(),
            late: Vec::new(),
            broken: false,
        }
    }

    fn is_over(&self, end: i64) -> bool {
        end.saturating_add(self.spec.allowed_lateness_ns) <= self.watermark
    }

    fn key(&self, row: &Row) -> Key {
        let schema = input_schema();
        let values: Vec<&Value> = self.spec.key.iter().map(|name| &row[schema.index_of(name).unwrap()]).collect();
        format!("{values:?}")
    }

    pub fn push(&mut self, row: &Row) {
        let Value::Int(time) = row[TIME] else { panic!("a time") };
        let time = time as i64 * MS;
        self.count += 1;
        let taken = match self.spec.window {
            WindowKind::Tumbling { size_ns } => self.push_aligned(row, time, size_ns, size_ns),
            WindowKind::Sliding { size_ns, every_ns } => self.push_aligned(row, time, size_ns, every_ns),
            WindowKind::Session { gap_ns } => self.push_session(row, time, gap_ns),
        };
        if !taken {
            self.late.push(row.clone());
        }
    }

    fn push_aligned(&mut self, row: &Row, time: i64, size: i64, every: i64) -> bool {
        let mut taken = false;
        let mut start = time.div_euclid(every) * every;
        let mut starts = Vec::new();
        while start + size > time || self.broken && start + size == time {
            starts.push(start);
            start -= every;
        }
        for start in starts.into_iter().rev() {
            if self.is_over(start + size) {
                continue;
            }
            taken = true;
            let key = self.key(row);
            let fired = start + size <= self.watermark;
            let groups = self.aligned.entry(start).or_default();
            let at = groups.iter().position(|group| group.key == key).unwrap_or_else(|| {
                groups.push(Group { key: key.clone(), start, end: start + size, ..Group::default() });
                groups.len() - 1
            });
            groups[at].rows.push((self.count, row.clone()));
            if fired && groups[at].fired && !groups[at].pending {
                groups[at].pending = true;
                self.queue.push((start, key));
            }
        }
        taken
    }

    fn push_session(&mut self, row: &Row, time: i64, gap: i64) -> bool {
        let key = self.key(row);
        let joins = |oracle: &Self, group: &Group| {
            group.key == key && time < group.end && time + gap > group.start && !oracle.is_over(group.end)
        };
        let mut joined: Vec<Group> = Vec::new();
        let mut at = 0;
        while at < self.sessions.len() {
            if joins(self, &self.sessions[at]) {
                joined.push(self.sessions.remove(at));
            } else {
                at += 1;
            }
        }
        if joined.is_empty() && self.is_over(time + gap) {
            return false;
        }
        joined.sort_by_key(|group| group.start);
        let mut joined = joined.into_iter();
        let mut home = joined.next().unwrap_or_else(|| Group { key, start: time, end: time + gap, ..Group::default() });
        for other in joined {
            home.end = home.end.max(other.end);
            // What was absorbed loses its place in the queue.
            self.queue.retain(|(number, _)| !other.rows.iter().any(|(row, _)| *row == *number as u64));
            home.rows.extend(other.rows);
        }
        home.start = home.start.min(time);
        home.end = home.end.max(time + gap);
        home.rows.push((self.count, row.clone()));
        if home.end > self.watermark {
            home.fired = false;
            home.pending = false;
        } else {
            // A group that waits already keeps its place in the queue.
            if !home.pending {
                home.pending = true;
                self.queue.push((self.count as i64, home.key.clone()));
            }
            home.fired = true;
        }
        self.sessions.push(home);
        true
    }

    pub fn advance(&mut self, watermark: i64) {
        self.watermark = self.watermark.max(watermark);
    }

    /// Gives out everything that fires.
    pub fn drain(&mut self) {
        if matches!(self.spec.window, WindowKind::Session { .. }) {
            return self.drain_sessions();
        }
        let starts: Vec<i64> = self.aligned.keys().copied().collect();
        let queue = std::mem::take(&mut self.queue);
        for start in starts {
            let mut groups = self.aligned.remove(&start).unwrap();
            let end = groups[0].end;
            if end <= self.watermark {
                for group in groups.iter_mut().filter(|group| !group.fired) {
                    group.fired = true;
                    self.give_out(group);
                }
                for (_, key) in queue.iter().filter(|(queued, _)| *queued == start) {
                    let group = groups.iter_mut().find(|group| group.key == *key).unwrap();
                    group.pending = false;
                    self.give_out(group);
                }
            }
            if !self.is_over(end) {
                self.aligned.insert(start, groups);
            }
        }
    }

    fn drain_sessions(&mut self) {
        let mut sessions = std::mem::take(&mut self.sessions);
        let arrival = |group: &Group| group.rows.iter().map(|(number, _)| *number).min().unwrap();
        // Late rows' sessions first, in the order in which they changed.
        for (number, _) in std::mem::take(&mut self.queue) {
            let group = sessions
                .iter_mut()
                .find(|group| group.pending && group.rows.iter().any(|(row, _)| *row == number as u64));
            if let Some(group) = group {
                group.pending = false;
                self.give_out(group);
            }
        }
        let mut due: Vec<&mut Group> =
            sessions.iter_mut().filter(|group| group.end <= self.watermark && !group.fired).collect();
        due.sort_by_key(|group| (group.end, arrival(group)));
        for group in due {
            group.fired = true;
            self.give_out(group);
        }
        sessions.retain(|group| !self.is_over(group.end));
        self.sessions = sessions;
    }

    fn give_out(&mut self, group: &mut Group) {
        let schema = input_schema();
        let keys = self.spec.key.iter().map(|name| group.rows[0].1[schema.index_of(name).unwrap()].clone());
        let mut row: Row = keys.collect();
        row.push(Value::Int((group.start / MS).into()));
        row.push(Value::Int((group.end / MS).into()));
        for aggregate in &self.spec.aggregates {
            row.push(compute(&aggregate.expression, &group.rows));
        }
        if let Some(statistics) = &self.spec.statistics {
            let of = self.spec.aggregates.iter().position(|aggregate| aggregate.name == statistics.of).unwrap();
            let value = match row[self.spec.key.len() + 2 + of] {
                Value::Float(value) => value,
                Value::Int(value) => value as f64,
                _ => f64::NAN,
            };
            let history = self.histories.entry(group.key.clone()).or_default();
            let horizon = statistics.horizon_ns;
            let summary = *group.shown.summary.get_or_insert_with(|| summarize(history, group.end, horizon));
            row.extend([Value::Float(summary.1), Value::Float(summary.2), Value::Int(summary.0.into())]);
            if value.is_finite() {
                match group.shown.contributed {
                    Some(old) => {
                        if let Some(entry) = history.iter_mut().rev().find(|entry| **entry == old) {
                            *entry = (group.end, value);
                        }
                    }
                    None => history.push((group.end, value)),
                }
                group.shown.contributed = Some((group.end, value));
            }
        }
        self.results.push(row);
    }
}

fn summarize(history: &[(i64, f64)], end: i64, horizon: Option<i64>) -> (u64, f64, f64) {
    let within = |entry: &&(i64, f64)| horizon.is_none_or(|horizon| entry.0 >= end - horizon && entry.0 <= end);
    let values: Vec<f64> = history.iter().filter(within).map(|(_, value)| *value).collect();
    let mean = mean(&values);
    (values.len() as u64, mean, variance(&values).sqrt())
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn variance(values: &[f64]) -> f64 {
    let mean = mean(values);
    if values.len() < 2 {
        f64::NAN
    } else {
        values.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / (values.len() - 1) as f64
    }
}

fn compute(expression: &str, rows: &[(u64, Row)]) -> Value {
    let (function, argument) = expression.strip_suffix(')').unwrap().split_once('(').unwrap();
    if argument.is_empty() {
        return Value::Int(rows.len() as i128);
    }
    let column = input_schema().index_of(argument).unwrap();
    let there: Vec<(u64, &Value)> =
        rows.iter().map(|(number, row)| (*number, &row[column])).filter(|(_, value)| **value != Value::Null).collect();
    let numbers: Vec<f64> = there
        .iter()
        .map(|(_, value)| match value {
            Value::Int(value) => *value as f64,
            Value::Float(value) => *value,
            _ => f64::NAN,
        })
        .collect();
    let exact: Option<i128> =
        there.iter().map(|(_, value)| if let Value::Int(value) = value { Some(*value) } else { None }).sum();
    let least = |a: f64, b: f64| a.total_cmp(&b);
    let of_number = |value: f64| match exact {
        Some(_) => Value::Int(value as i128),
        None => Value::Float(value),
    };
    match function {
        "count" => Value::Int(there.len() as i128),
        "collect" => Value::List(there.iter().map(|(_, value)| (*value).clone()).collect()),
        _ if there.is_empty() => Value::Null,
        "sum" => exact.map_or_else(|| Value::Float(numbers.iter().sum()), |sum| Value::Int(sum.min(i64::MAX.into()))),
        "mean" => {
            Value::Float(exact.map_or_else(|| numbers.iter().sum::<f64>(), |sum| sum as f64) / numbers.len() as f64)
        }
        "min" => of_number(numbers.iter().copied().min_by(|a, b| least(*a, *b)).unwrap()),
        "max" => {
            let max = there
                .iter()
                .filter_map(|(_, value)| if let Value::Int(value) = value { Some(*value) } else { None })
                .max();
            max.map_or_else(|| Value::Float(numbers.iter().copied().fold(f64::MIN, f64::max)), Value::Int)
        }
        "variance" => Value::Float(variance(&numbers)),
        "stddev" => Value::Float(variance(&numbers).sqrt()),
        "first" => there.iter().min_by_key(|(number, _)| *number).unwrap().1.clone(),
        "last" => there.iter().max_by_key(|(number, _)| *number).unwrap().1.clone(),
        other => panic!("{other}"),
    }
}
