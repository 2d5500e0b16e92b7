//! One measurement between two processes: `peers-ring TRANSPORT WAIT MEASURE BYTES COUNT CPU CPU`.
//!
//! TRANSPORT is ringmill, iceoryx2, unix-socket or pipe; WAIT is spin or block; MEASURE is round-trip or throughput. Every
//! payload is written in full by its sender and read in full by its receiver. The other process is this program again,
//! with `child` before the arguments and the transport's own behind them. Prints one JSON object.

mod iceoryx;
mod payload;
mod ringmill;
mod stream;

use base64::Engine;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer, V2DeflateSerializer};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use std::error::Error;
use std::process::{Child, Command};
use std::time::Instant;

/// What every fallible step returns: a failure ends the measurement.
type Outcome<T> = Result<T, Box<dyn Error>>;

/// What is to be measured.
#[derive(Clone)]
struct Plan {
    transport: String,
    spin: bool,
    round_trip: bool,
    bytes: usize,
    count: u64,
    cpus: [usize; 2],
}

impl Plan {
    fn of(arguments: &[String]) -> Outcome<Plan> {
        let [transport, wait, measure, bytes, count, first, second, ..] = arguments else {
            return Err("usage: peers-ring TRANSPORT WAIT MEASURE BYTES COUNT CPU CPU".into());
        };
        Ok(Plan {
            transport: transport.clone(),
            spin: wait == "spin",
            round_trip: measure == "round-trip",
            bytes: bytes.parse()?,
            count: count.parse()?,
            cpus: [first.parse()?, second.parse()?],
        })
    }

    fn arguments(&self) -> Vec<String> {
        let wait = if self.spin { "spin" } else { "block" };
        let measure = if self.round_trip { "round-trip" } else { "throughput" };
        let numbers = [self.bytes as u64, self.count, self.cpus[0] as u64, self.cpus[1] as u64];
        let words = [self.transport.clone(), wait.into(), measure.into()];
        words.into_iter().chain(numbers.map(|number| number.to_string())).collect()
    }

    /// Round trips that are not counted.
    fn warm_up(&self) -> u64 {
        self.count / 4
    }

    /// The other process, with what else it has to know.
    fn child(&self, more: &[String]) -> Outcome<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("child").args(self.arguments()).args(more);
        Ok(command)
    }
}

/// This side: asks, or sends.
trait Client {
    /// There and back.
    fn round_trip(&mut self, number: u64) -> Outcome<()>;
    /// That many messages, until the last of them was read.
    fn stream(&mut self, count: u64) -> Outcome<()>;
}

/// The other side: answers, or receives.
trait Server {
    /// That many round trips.
    fn answer(&mut self, count: u64) -> Outcome<()>;
    /// That many messages; says so in the end.
    fn receive(&mut self, count: u64) -> Outcome<()>;
}

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|argument| argument == "child") {
        let plan = Plan::of(&arguments[1..])?;
        pin(plan.cpus[1]);
        return serve(&plan, &arguments[8..]);
    }
    let plan = Plan::of(&arguments)?;
    pin(plan.cpus[0]);
    let (mut client, mut child) = connect(&plan)?;
    if plan.round_trip {
        round_trips(&plan, client.as_mut())?;
    } else {
        let start = Instant::now();
        client.stream(plan.count)?;
        println!("{{\"messages_per_second\": {}}}", plan.count as f64 / start.elapsed().as_secs_f64());
    }
    drop(client);
    child.wait()?;
    Ok(())
}

fn connect(plan: &Plan) -> Outcome<(Box<dyn Client>, Child)> {
    match plan.transport.as_str() {
        "ringmill" => ringmill::connect(plan),
        "iceoryx2" => iceoryx::connect(plan),
        "unix-socket" | "pipe" => stream::connect(plan),
        other => Err(format!("there is no transport {other}").into()),
    }
}

fn serve(plan: &Plan, more: &[String]) -> Outcome<()> {
    let mut server: Box<dyn Server> = match plan.transport.as_str() {
        "ringmill" => ringmill::serve(plan, more)?,
        "iceoryx2" => iceoryx::serve(plan, more)?,
        _ => stream::serve(plan)?,
    };
    if plan.round_trip { server.answer(plan.warm_up() + plan.count) } else { server.receive(plan.count) }
}

fn round_trips(plan: &Plan, client: &mut dyn Client) -> Outcome<()> {
    let mut histogram = Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3)?;
    for number in 0..plan.warm_up() {
        client.round_trip(number)?;
    }
    let mut before = Instant::now();
    for number in 0..plan.count {
        client.round_trip(number)?;
        let now = Instant::now();
        histogram.saturating_record((now - before).as_nanos() as u64);
        before = now;
    }
    let mut serialized = Vec::new();
    V2DeflateSerializer::new().serialize(&histogram, &mut serialized)?;
    println!("{{\"histogram\": \"{}\"}}", base64::engine::general_purpose::STANDARD.encode(serialized));
    Ok(())
}

/// On a machine with a single core this fails, and the figures are those of its scheduler.
fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    if set.set(cpu).is_ok() {
        let _ = sched_setaffinity(Pid::from_raw(0), &set);
    }
}
