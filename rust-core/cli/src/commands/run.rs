//! `ringmill run FILE`: starts the engine on a thread of its own and watches it: signals, time limit, display, log.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant, SystemTime};

use hdrhistogram::Histogram;
use ringmill_engine::plan::StartFrom;
use ringmill_engine::{Control, EngineError, Plan, Stage, Summary, memory_budget};

use crate::arguments::{LogArguments, RunArguments};
use crate::failure::{Failure, Hinted};
use crate::hlog::{Interval, IntervalLog};
use crate::live::{Moment, Reading};
use crate::logging::{self, LogFormat};
use crate::machine::Machine;
use crate::prepare::prepare_served;
use crate::report::Report;
use crate::serve::Server;
use crate::signals;
use crate::summary;
use crate::terminal::{Screen, is_fancy};
use crate::units::bytes;

/// The live block is drawn this often.
const DRAW_PERIOD: Duration = Duration::from_millis(250);
/// Drawings in a second.
const READINGS: usize = 4;
/// Latencies are gathered over this long, for the display and the log.
const INTERVAL: Duration = Duration::from_secs(1);
/// Where there is no live block, a line comes this often.
const LINE_PERIOD: Duration = Duration::from_secs(5);
/// After the second signal the engine has this long to stop its workers.
const ABORT_PATIENCE: Duration = Duration::from_secs(2);

/// What wakes the watching thread.
enum Event {
    Signal,
    Ended(Box<Result<Summary, EngineError>>),
}

/// Runs the pipeline to its end.
///
/// # Errors
/// See [`Failure`]. A JSON log gets the failure as a line of its own, so that standard error stays JSON.
pub fn execute(arguments: &RunArguments) -> Result<(), Failure> {
    on_screen(&arguments.log, arguments.quiet, |screen| run(arguments, screen))
}

/// Starts the log, and does something that shows its progress.
///
/// # Errors
/// What `work` says.
pub fn on_screen(
    log: &LogArguments,
    quiet: bool,
    work: impl FnOnce(Screen) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let is_json = log.log_format == LogFormat::Json;
    let screen = Screen::new(is_fancy() && !quiet && !is_json);
    logging::start(&screen, log.log_format, log.log_level, is_fancy());
    work(screen).map_err(|failure| {
        if !is_json {
            return failure;
        }
        tracing::error!(exit_code = failure.exit_code(), "{}", failure.render(false).trim_end());
        Failure::Logged(failure.exit_code())
    })
}

fn run(arguments: &RunArguments, screen: Screen) -> Result<(), Failure> {
    let machine = Machine::detect();
    arm_failpoints(&machine)?;
    let (mut plan, serve) = prepare_served(&arguments.config, &machine)?;
    choose_start(arguments, &mut plan)?;
    watch(arguments, &plan, serve, screen)
}

/// Runs a plan and watches it to its end; its retained results are served at `serve`.
///
/// # Errors
/// See [`Failure`].
pub fn watch(arguments: &RunArguments, plan: &Plan, serve: Option<SocketAddr>, screen: Screen) -> Result<(), Failure> {
    let hlog = start_hlog(arguments, plan)?;
    let control = Arc::new(Control::default());
    let _server = serve.map(|listen| Server::start(listen, plan, &control)).transpose()?;
    let (sender, receiver) = channel();
    let events = sender.clone();
    signals::watch(move || {
        // The receiver lives as long as the process has something to do.
        let _ = events.send(Event::Signal);
    })
    .map_err(|error| Failure::Run(Hinted::new(format!("signals cannot be watched: {error}"))))?;
    let mut watch = Watch::new(arguments, plan, &control, screen, hlog);
    watch.say(&opening(plan));
    start_engine(plan, &control, sender)?;
    let outcome = watch.until_end(&receiver);
    watch.screen.clear();
    watch.finish(outcome)
}

pub(super) fn arm_failpoints(machine: &Machine) -> Result<(), Failure> {
    let Some(text) = &machine.failpoint else { return Ok(()) };
    ringmill_failpoint::configure(text)
        .map_err(|reason| Failure::Usage(Hinted::new(format!("$RINGMILL_FAILPOINT: {reason}")).hint("unset it")))
}

/// Lays `--fresh` and `--from-checkpoint` over the plan.
fn choose_start(arguments: &RunArguments, plan: &mut Plan) -> Result<(), Failure> {
    let (flag, start) = match (arguments.fresh, arguments.from_checkpoint) {
        (true, _) => ("--fresh", StartFrom::Beginning),
        (false, Some(id)) => ("--from-checkpoint", StartFrom::Checkpoint(id)),
        (false, None) => return Ok(()),
    };
    let Some(checkpoint) = &mut plan.checkpoint else {
        let message = format!("{flag}: {} has no [checkpoint] table", arguments.config.file.display());
        let hint = "without checkpoints every run begins at the beginning";
        return Err(Failure::Usage(Hinted::new(message).hint(hint)));
    };
    checkpoint.start = start;
    Ok(())
}

fn opening(plan: &Plan) -> String {
    let total: u64 = memory_budget(plan).iter().map(|(_, size)| size).sum();
    let noun = if plan.shards == 1 { "shard" } else { "shards" };
    format!("{}: {} {noun}, memory at most {} (ringmill check lists the parts)", plan.name, plan.shards, bytes(total))
}

fn start_hlog(arguments: &RunArguments, plan: &Plan) -> Result<Option<IntervalLog>, Failure> {
    let Some(path) = &arguments.hlog else { return Ok(None) };
    let failed = |error| Failure::Run(Hinted::new(format!("{} cannot be written: {error}", path.display())));
    IntervalLog::create(path, &plan.name, SystemTime::now()).map(Some).map_err(failed)
}

fn start_engine(plan: &Plan, control: &Arc<Control>, sender: Sender<Event>) -> Result<(), Failure> {
    let plan = plan.clone();
    let control = Arc::clone(control);
    let run = move || {
        let outcome = ringmill_engine::run(plan, control);
        let _ = sender.send(Event::Ended(Box::new(outcome)));
    };
    match std::thread::Builder::new().name("ringmill-run".to_owned()).spawn(run) {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::Run(Hinted::new(format!("the engine's thread cannot be started: {error}")))),
    }
}

/// The watching side of a run.
struct Watch<'a> {
    arguments: &'a RunArguments,
    plan: &'a Plan,
    control: &'a Control,
    screen: Screen,
    hlog: Option<IntervalLog>,
    started: Instant,
    /// When the time is up; known once rows can enter.
    deadline: Option<Instant>,
    signals: u32,
    next_draw: Instant,
    next_interval: Instant,
    next_line: Instant,
    interval_start: Duration,
    recent: Vec<(Stage, Histogram<u64>)>,
    /// One for each drawing of the last second, the oldest first: rates are over that second.
    readings: VecDeque<Reading>,
    /// `None` until rows can enter.
    before_line: Option<Reading>,
}

impl<'a> Watch<'a> {
    fn new(
        arguments: &'a RunArguments,
        plan: &'a Plan,
        control: &'a Control,
        screen: Screen,
        hlog: Option<IntervalLog>,
    ) -> Watch<'a> {
        let now = Instant::now();
        Watch {
            arguments,
            plan,
            control,
            screen,
            hlog,
            started: now,
            deadline: None,
            signals: 0,
            next_draw: now + DRAW_PERIOD,
            next_interval: now + INTERVAL,
            next_line: now + LINE_PERIOD,
            interval_start: Duration::ZERO,
            recent: Vec::new(),
            readings: VecDeque::new(),
            before_line: None,
        }
    }

    /// Watches until the engine ends, or until patience after the second signal has run out.
    fn until_end(&mut self, events: &Receiver<Event>) -> Result<Summary, EngineError> {
        let mut patience: Option<Instant> = None;
        loop {
            match events.recv_timeout(self.pause(patience)) {
                Ok(Event::Ended(outcome)) => return *outcome,
                Ok(Event::Signal) => {
                    self.signals += 1;
                    if self.signals == 1 {
                        self.say("draining; a second signal ends at once");
                        self.control.request_drain();
                    } else {
                        self.control.request_abort();
                        patience.get_or_insert_with(|| Instant::now() + ABORT_PATIENCE);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(EngineError::Internal("the engine's thread ended".into()));
                }
            }
            if patience.is_some_and(|end| Instant::now() >= end) {
                return Err(EngineError::Aborted);
            }
            self.tick();
        }
    }

    /// How long nothing needs to be done.
    fn pause(&self, patience: Option<Instant>) -> Duration {
        let line_or_draw = match (self.arguments.quiet, self.screen.is_live()) {
            (true, _) => self.next_interval,
            (false, true) => self.next_draw,
            (false, false) => self.next_line.min(self.next_interval),
        };
        // Until the first row can enter the deadline is not known, so it is looked for as often as the block is drawn.
        let deadline = match (self.arguments.duration, self.deadline) {
            (Some(_), None) => Some(Instant::now() + DRAW_PERIOD / 10),
            (_, deadline) => deadline,
        };
        let next = [Some(line_or_draw), deadline, patience].into_iter().flatten().min();
        next.map_or(DRAW_PERIOD, |next| next.saturating_duration_since(Instant::now()))
    }

    fn tick(&mut self) {
        let now = Instant::now();
        self.check_deadline(now);
        if now >= self.next_interval {
            self.next_interval = now + INTERVAL;
            self.take_interval();
        }
        if self.arguments.quiet {
            return;
        }
        if self.screen.is_live() && now >= self.next_draw {
            self.next_draw = now + DRAW_PERIOD;
            let snapshot = self.control.snapshot();
            let reading = Reading::of(&snapshot);
            let before = self.readings.front().unwrap_or(&reading);
            self.screen.draw(&self.moment(&snapshot, before).block());
            if self.readings.len() == READINGS {
                self.readings.pop_front();
            }
            self.readings.push_back(reading);
        } else if !self.screen.is_live() && self.before_line.is_none() {
            self.begin_lines();
        } else if !self.screen.is_live() && now >= self.next_line {
            self.next_line = now + LINE_PERIOD;
            let snapshot = self.control.snapshot();
            let before = self.before_line.take().unwrap_or_else(|| Reading::before(&snapshot));
            self.say(&self.moment(&snapshot, &before).line());
            self.before_line = Some(Reading::of(&snapshot));
        }
    }

    /// Takes the reading that the first line's rates start from: a run may go on with the counts of an earlier one.
    fn begin_lines(&mut self) {
        let snapshot = self.control.snapshot();
        self.before_line = (!snapshot.elapsed.is_zero()).then(|| Reading::of(&snapshot));
    }

    fn moment<'b>(&'b self, snapshot: &'b ringmill_engine::Snapshot, before: &'b Reading) -> Moment<'b> {
        Moment { pipeline: &self.plan.name, snapshot, before, recent: &self.recent }
    }

    fn check_deadline(&mut self, now: Instant) {
        let Some(duration) = self.arguments.duration else { return };
        match self.deadline {
            None => {
                let elapsed = self.control.snapshot().elapsed;
                if !elapsed.is_zero() {
                    self.deadline = Some(now + duration.saturating_sub(elapsed));
                }
            }
            Some(deadline) if now >= deadline => {
                self.control.request_drain();
                // Far enough away never to come.
                self.deadline = Some(now + Duration::from_secs(u64::from(u32::MAX)));
            }
            Some(_) => {}
        }
    }

    /// Latencies since the last call go to the log and are shown until the next.
    fn take_interval(&mut self) {
        let start = self.interval_start;
        self.interval_start = self.started.elapsed();
        let stages = self.control.take_intervals();
        if let Some(hlog) = &self.hlog
            && !stages.is_empty()
        {
            let length = self.interval_start - start;
            hlog.push(Interval { start, length, stages: stages.clone() });
        }
        self.recent = stages;
    }

    fn say(&self, text: &str) {
        match self.arguments.log.log_format {
            _ if self.arguments.quiet => {}
            LogFormat::Json => tracing::info!("{text}"),
            LogFormat::Text => self.screen.print(text),
        }
    }

    /// The closing table, the report and the end of the log.
    fn finish(mut self, outcome: Result<Summary, EngineError>) -> Result<(), Failure> {
        self.take_interval();
        let logged = self.hlog.take().map_or(Ok(()), IntervalLog::finish);
        let summary = match outcome {
            Ok(summary) => summary,
            Err(error) => {
                let snapshot = self.control.snapshot();
                if !snapshot.elapsed.is_zero() {
                    let line = self.moment(&snapshot, &Reading::before(&snapshot)).line();
                    self.say(&format!("until the failure: {line}"));
                }
                return Err(error.into());
            }
        };
        let report = Report::new(self.plan, &summary);
        match self.arguments.log.log_format {
            _ if self.arguments.quiet => {}
            LogFormat::Json => tracing::info!(report = report.line(), "the run is over"),
            LogFormat::Text => self.screen.print(&format!("\n{}", summary::text(self.plan, &summary))),
        }
        if let Some(path) = &self.arguments.report {
            let failed = |error| Failure::Run(Hinted::new(format!("{} cannot be written: {error}", path.display())));
            report.write(path).map_err(failed)?;
        }
        logged.map_err(|error| Failure::Run(Hinted::new(format!("the latency log could not be written: {error}"))))
    }
}
