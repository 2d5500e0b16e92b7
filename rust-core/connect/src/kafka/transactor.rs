//! Epochs into a topic, each in a transaction with its mark.
//!
//! Whether an epoch is there is never concluded from what a call answered: it is read from the mark ([`Marks`]), behind
//! `init_transactions`, which ends whatever an earlier producer of the same name has begun. So whatever goes wrong within a
//! transaction has one remedy, the one that the death of the process needs anyway: the producer is thrown away, and the next
//! one begins with reading. Only what librdkafka says can be called again is called again.
//!
//! A producer whose name another one has taken ends the run, as two would take it from each other without end. The brokers say
//! the same of one whose transaction they have ended because it was too old; that is told by its age.

use std::{
    io::BufRead,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig,
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
    producer::Producer,
};
use ringmill_failpoint::hit;

use super::{
    KafkaSink,
    client::{ANSWER_TIMEOUT, Reports, is_refusal, said},
    encode::{messages, read_message},
    mark::Marks,
    producer::{KafkaProducer, PATIENCE, producer_config},
};
use crate::{
    ConnectError, Fault,
    courier::{Courier, Refused},
    headers,
    staging::{Sealed, StagePoints, Staged, stage_points},
};

static POINTS: StagePoints = stage_points!("sink.kafka");

/// librdkafka's own limit of a transaction's age, unless an option says otherwise.
const AGE_MAX: Duration = Duration::from_secs(60);
/// A call that should have come back long ago does not any more.
const STUCK: Duration = Duration::from_secs(5);

/// The way to the topic.
pub struct Transactor {
    sink: KafkaSink,
    transactional_id: String,
    config: ClientConfig,
    /// for people
    name: String,
    /// by which the headers are told from others
    headers: u32,
    /// the brokers end a transaction that is older
    age_max: Duration,
    /// the newest mark, as the brokers have it
    newest: Option<String>,
    /// since then a commit was asked for, so there may be a newer one
    is_asked: bool,
    session: Option<Session>,
}

/// What a checkpoint says of its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// by which their headers are told from others
    headers: u32,
    /// the mark that stood there before, as there always is one
    before: Option<String>,
}

/// A producer, from its first call to its first error.
struct Session {
    producer: Arc<KafkaProducer>,
    /// nobody else has the name, and nothing of an earlier one is open
    is_initialized: bool,
    /// and the newest one has been read
    marks: Option<Arc<Marks>>,
    open: Option<Open>,
}

/// A transaction that has begun.
struct Open {
    since: Instant,
    /// The brokers have all rows and the mark.
    is_whole: bool,
}

impl Transactor {
    /// Takes the name, and asks the brokers for the topic and the newest mark; fails if none answers.
    pub fn open(sink: &KafkaSink, transactional_id: &str) -> Result<Transactor, ConnectError> {
        let mut config = producer_config(sink)?;
        config.set("transactional.id", transactional_id);
        let age_max = config.get("transaction.timeout.ms").and_then(|wanted| wanted.parse().ok());
        let mut transactor = Transactor {
            sink: sink.clone(),
            transactional_id: transactional_id.to_owned(),
            config,
            name: format!("topic {:?} of Kafka at {}", sink.topic, sink.brokers.join(",")),
            headers: headers::terms(&sink.headers),
            age_max: age_max.map_or(AGE_MAX, Duration::from_millis),
            newest: None,
            is_asked: false,
            session: None,
        };
        transactor.session()?.producer.check_topic()?;
        transactor.connect(ANSWER_TIMEOUT)?;
        Ok(transactor)
    }

    fn brokers(&self) -> String {
        self.sink.brokers.join(",")
    }

    /// Connects to nobody.
    fn session(&mut self) -> Result<&mut Session, ConnectError> {
        let session = match self.session.take() {
            Some(session) => session,
            None => {
                let producer = KafkaProducer::new(&self.sink, &self.config, Reports::of_transactions(&self.brokers()))?;
                Session { producer: Arc::new(producer), is_initialized: false, marks: None, open: None }
            }
        };
        Ok(self.session.insert(session))
    }

    /// Takes the name, and reads the newest mark, unless that is done.
    fn connect(&mut self, patience: Duration) -> Result<(), ConnectError> {
        let session = self.session()?;
        if !session.is_initialized {
            hit("sink.kafka.initialize");
            let initialized = session.producer.client.init_transactions(patience);
            initialized.map_err(|error| self.judge(&error))?;
            hit("sink.kafka.initialized");
            self.session()?.is_initialized = true;
        }
        if self.session()?.marks.is_none() {
            let config = self.consumer_config();
            let read = Marks::read(config, &self.brokers(), &self.sink.topic, &self.transactional_id);
            let (marks, newest) = read.map_err(|error| self.judge(&error))?;
            // One that the brokers keep no more is the newest still, unless a commit may have come since it was read: a sink that
            // had no rows for a week has lost its mark and its name at once.
            if newest.is_some() || self.is_asked {
                self.newest = newest;
            }
            self.is_asked = false;
            self.session()?.marks = Some(Arc::new(marks));
        }
        Ok(())
    }

    /// Without what no consumer can be made of.
    fn consumer_config(&self) -> ClientConfig {
        let mut config = self.config.clone();
        config.remove("transactional.id");
        config.remove("enable.idempotence");
        config
    }

    /// Begins a transaction, unless one is open.
    fn begin(&mut self, done: &mut u64) -> Result<(), ConnectError> {
        let session = self.session()?;
        if session.open.is_some() {
            return Ok(());
        }
        hit("sink.kafka.begin");
        session.producer.client.begin_transaction().map_err(|error| self.judge(&error))?;
        self.session()?.open = Some(Open { since: Instant::now(), is_whole: false });
        *done = 0;
        Ok(())
    }

    /// Brings the rows to the brokers, without those that librdkafka has already.
    fn hand_over(&mut self, key: &str, mut rows: impl BufRead, done: &mut u64) -> Result<(), ConnectError> {
        let producer = &self.session()?.producer;
        producer.check()?;
        let unread = |source| ConnectError::Read { name: format!("the rows for {key}"), offset: 0, source };
        let mut number = 0;
        while let Some((timestamp, message)) = read_message(&mut rows, producer.header_count()).map_err(unread)? {
            if number == *done {
                producer.send(timestamp, &message.borrowed())?;
                *done += 1;
            }
            number += 1;
        }
        producer.flush()
    }

    /// Adds the mark of these rows to the transaction.
    ///
    /// When a connection breaks in the midst of it librdkafka may never come back from this call, whatever its time-out, so it
    /// is made by a thread of its own, which is left behind then together with the producer.
    fn mark(&mut self, key: &str) -> Result<(), ConnectError> {
        let session = self.session()?;
        let failed = |reason: String| session.producer.failed(reason, Fault::Transient);
        let marks = session.marks.clone().ok_or_else(|| failed("there is no connection".to_owned()))?;
        let (producer, key) = (Arc::clone(&session.producer), key.to_owned());
        let (answer, answered) = mpsc::channel();
        let call = move || {
            let added = marks
                .of(&key)
                .and_then(|mark| producer.client.send_offsets_to_transaction(&mark, marks.group(), PATIENCE));
            // Nobody waits for it any more if it took too long.
            let _ = answer.send(added);
        };
        let started = thread::Builder::new().name("kafka-mark".to_owned()).spawn(call);
        started.map_err(|error| failed(error.to_string()))?;
        match answered.recv_timeout(STUCK) {
            Ok(added) => added.map_err(|error| self.judge(&error)),
            Err(_) => {
                let error = failed("the mark of an epoch was not answered".to_owned());
                self.session = None;
                Err(error)
            }
        }
    }

    /// Brings rows and mark to the brokers, unless they are there.
    fn fill(&mut self, key: &str, rows: impl BufRead, done: &mut u64) -> Result<(), ConnectError> {
        if self.session()?.open.as_ref().is_some_and(|open| open.is_whole) {
            return Ok(());
        }
        hit("sink.kafka.send");
        if let Err(error) = self.hand_over(key, rows, done) {
            // Why a transaction has failed librdkafka says when it is asked for more.
            let told = self.mark(key);
            return Err(told.err().filter(|_| self.session.is_none()).unwrap_or(error));
        }
        hit("sink.kafka.sent");
        self.complete(key)
    }

    /// Adds the mark as the last thing of a transaction, unless that is done: a commit that has begun goes on with nothing else.
    fn complete(&mut self, key: &str) -> Result<(), ConnectError> {
        if self.session()?.open.as_ref().is_some_and(|open| open.is_whole) {
            return Ok(());
        }
        self.mark(key)?;
        if let Some(open) = &mut self.session()?.open {
            open.is_whole = true;
        }
        Ok(())
    }

    /// Ends the transaction that has this mark. A call that is not answered in time is made again, and goes on waiting for the same answer.
    fn commit(&mut self, key: &str) -> Result<(), ConnectError> {
        hit("sink.kafka.commit");
        self.is_asked = true;
        let session = self.session()?;
        let ended: KafkaResult<()> = session.producer.client.commit_transaction(PATIENCE);
        ended.map_err(|error| self.judge(&error))?;
        hit("sink.kafka.committed");
        self.session()?.open = None;
        (self.newest, self.is_asked) = (Some(key.to_owned()), false);
        Ok(())
    }

    /// What an error means. A producer that is of no more use is thrown away, and with it the transaction.
    fn judge(&mut self, error: &KafkaError) -> ConnectError {
        use RDKafkaErrorCode as Code;
        let since = self.session.as_ref().and_then(|session| session.open.as_ref()).map(|open| open.since);
        let (words, is_retriable) = match error {
            KafkaError::Transaction(error) => (error.string(), error.is_retriable()),
            // The producer is none the worse for them.
            KafkaError::Flush(_) | KafkaError::MetadataFetch(_) | KafkaError::OffsetFetch(_) => (said(error), true),
            error => (said(error), false),
        };
        let is_fenced = matches!(
            error.rdkafka_error_code(),
            Some(Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch)
        );
        let trouble = self.session.as_ref().and_then(|session| session.producer.reports().take_trouble());
        let (reason, fault) = if is_fenced && since.is_some_and(|since| since.elapsed() >= self.age_max) {
            let age_max = self.age_max.as_millis();
            let words = format!(
                "the brokers have ended a transaction that was older than transaction.timeout.ms ({age_max}), which `options` can raise"
            );
            (words, Fault::Transient)
        } else if is_fenced {
            (self.taken(), Fault::Permanent)
        } else if is_refusal(error) {
            (words, Fault::Permanent)
        } else {
            (trouble.unwrap_or(words), Fault::Transient)
        };
        if !is_retriable || fault == Fault::Permanent {
            self.session = None;
        }
        ConnectError::Kafka { brokers: self.brokers(), reason, fault }
    }

    fn taken(&self) -> String {
        format!(
            "another run has taken transactional_id {:?} over, so this one ends: each sink of each pipeline has one of its own",
            self.transactional_id
        )
    }

    /// The refusal of a mark that is not the one that the checkpoint says.
    fn refuse_mark(&self, expected: Option<&str>) -> ConnectError {
        let reason = match &self.newest {
            None => "the brokers have its mark no more, which they keep for offsets.retention.minutes, so nobody can tell \
                     whether the rows of the checkpoint are in the topic; look at the topic, and run with --fresh to begin anew"
                .to_owned(),
            Some(newest) => format!(
                "under transactional_id {:?} the brokers have the mark {newest:?} instead of {:?}; the state is another run's or \
                 an older one, so put the right one back, or run with --fresh to begin anew",
                self.transactional_id,
                expected.unwrap_or("none")
            ),
        };
        ConnectError::Target { name: self.name.clone(), reason }
    }
}

impl Courier for Transactor {
    type Terms = Terms;

    const POINTS: (&'static StagePoints, [&'static str; 2]) = (&POINTS, ["sink.kafka.mark", "sink.kafka.marked"]);

    fn name(&self) -> &str {
        &self.name
    }

    fn terms(&self) -> Terms {
        Terms { headers: self.headers, before: self.newest.clone() }
    }

    fn check(&mut self, rows: &[u8]) -> Result<(), ConnectError> {
        let producer = &self.session()?.producer;
        for message in messages(rows, producer.header_count()) {
            let (_, message) = message.ok_or_else(|| producer.refuse("these bytes are no messages"))?;
            producer.check_size(&message)?;
        }
        Ok(())
    }

    fn ready(&self) -> Result<(), ConnectError> {
        Ok(())
    }

    /// `done` are those of the open transaction that librdkafka has. None is refused for good without ending the run.
    fn send(
        &mut self,
        key: &str,
        rows: impl BufRead,
        terms: Terms,
        done: &mut u64,
        _refused: &mut Refused<'_>,
    ) -> Result<(), ConnectError> {
        if terms.headers != self.headers {
            let reason =
                "the checkpoint has rows for it with other `headers`; run the pipeline once as it was, or with --fresh";
            return Err(ConnectError::Target { name: self.name.clone(), reason: reason.to_owned() });
        }
        self.connect(PATIENCE)?;
        if self.newest.as_deref() == Some(key) {
            return Ok(());
        }
        if self.newest != terms.before {
            return Err(self.refuse_mark(terms.before.as_deref()));
        }
        self.begin(done)?;
        self.fill(key, rows, done)?;
        self.commit(key)
    }

    /// Where there is no mark, one of no epoch is set, so that later on its absence says something, and where there is none any
    /// more, that of the checkpoint again. That also shows, before there are rows, whether the brokers allow all that is needed.
    fn settled(&mut self, name: &str, from: Option<(Option<&str>, &Terms)>) -> Result<(), ConnectError> {
        self.connect(PATIENCE)?;
        let expected = from.and_then(|(sent, terms)| sent.or(terms.before.as_deref()));
        match self.newest.as_deref() {
            Some(newest) if from.is_some() && Some(newest) != expected => Err(self.refuse_mark(expected)),
            Some(_) => Ok(()),
            None => {
                let mark = expected.map_or_else(|| format!("{name}/0"), str::to_owned);
                self.begin(&mut 0)?;
                self.complete(&mark)?;
                self.commit(&mark)
            }
        }
    }

    fn staged(rows: Sealed, writer: String, Terms { headers, before }: Terms) -> Staged {
        Staged::Kafka { rows, writer, headers, before }
    }

    fn unstaged(staged: Staged) -> Result<(Sealed, String, Terms), Staged> {
        match staged {
            Staged::Kafka { rows, writer, headers, before } => Ok((rows, writer, Terms { headers, before })),
            other => Err(other),
        }
    }
}
