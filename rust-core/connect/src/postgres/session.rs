//! One connection: every call waits for the server, but never longer than a statement may take.

use std::{fs, future::Future, io, str::FromStr, time::Duration};

use bytes::Bytes;
use futures_util::SinkExt;
use tokio::{
    runtime::{Builder, Runtime},
    time::timeout,
};
use tokio_postgres::{
    Client, Config, Error, Row,
    config::{Host, SslMode},
    error::SqlState,
    types::ToSql,
};

use super::{PostgresSink, Secret, Tls, tls};
use crate::{ConnectError, Fault};

/// How much longer than the server we wait for the end of a statement that it should have cancelled.
const GRACE: Duration = Duration::from_secs(5);
/// A peer that acknowledges nothing for so long is gone.
const SILENCE: Duration = Duration::from_secs(30);
const PROBE_IDLE: Duration = Duration::from_secs(10);

/// A connection and what drives it.
pub struct Session {
    runtime: Runtime,
    client: Client,
    /// the target, for messages
    name: String,
    patience: Duration,
}

/// Reads an address; the reason does not repeat it.
pub fn parse_url(url: &Secret) -> Result<Config, String> {
    let text = url.reveal();
    if !text.starts_with("postgres://") && !text.starts_with("postgresql://") {
        return Err("it does not begin with postgres://".to_owned());
    }
    let config = Config::from_str(text).map_err(|error| words(&error))?;
    if config.get_hosts().is_empty() {
        return Err("it names no host".to_owned());
    }
    if config.get_dbname().is_none() {
        return Err("it names no database".to_owned());
    }
    Ok(config)
}

/// The table and where it is, for messages.
pub fn target_name(sink: &PostgresSink) -> String {
    let table = format!("{}.{}", sink.schema, sink.table);
    let Ok(config) = parse_url(&sink.url) else { return table };
    let hosts = config.get_hosts().iter().map(|host| match host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(path) => path.display().to_string(),
    });
    let hosts: Vec<String> = hosts.collect();
    let ports: Vec<String> = config.get_ports().iter().map(|port| format!(":{port}")).collect();
    let database = config.get_dbname().unwrap_or_default();
    format!("table {table} of postgres://{}{}/{database}", hosts.join(","), ports.join(","))
}

impl Session {
    /// Connects once.
    pub fn connect(sink: &PostgresSink) -> Result<Session, ConnectError> {
        let name = target_name(sink);
        let config = config(sink, &name)?;
        let refused = |reason: String| ConnectError::Database { name: name.clone(), reason, fault: Fault::Permanent };
        let connector = tls::connector(sink).map_err(refused)?;
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|source| ConnectError::Write { name: name.clone(), source })?;
        let connected = runtime.block_on(async { timeout(sink.connect_timeout, config.connect(connector)).await });
        let (client, connection) = match connected {
            Ok(connected) => connected.map_err(|error| failed(&name, &error))?,
            Err(_) => return Err(late(&name, "no connection", sink.connect_timeout)),
        };
        // It ends with the client, and whatever it fails of, the client says so.
        runtime.spawn(async { drop(connection.await) });
        let session = Session { runtime, client, name, patience: sink.statement_timeout + GRACE };
        session.prepare(sink.statement_timeout)?;
        Ok(session)
    }

    /// Rows are forgotten here when they are committed, so a commit must be durable there; times are UTC.
    fn prepare(&self, statement_timeout: Duration) -> Result<(), ConnectError> {
        let milliseconds = statement_timeout.as_millis();
        self.batch(&format!(
            "SET statement_timeout = {milliseconds}; SET lock_timeout = 0; SET TimeZone = 'UTC'; \
             SET idle_in_transaction_session_timeout = {}; \
             SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'",
            milliseconds + GRACE.as_millis()
        ))
    }

    /// Runs statements without rows.
    pub fn batch(&self, sql: &str) -> Result<(), ConnectError> {
        self.wait(self.client.batch_execute(sql))
    }

    /// Creates a table that may be there. Two that do this at the same time collide in the catalog although both say
    /// `IF NOT EXISTS`; for the one that came later it is there when it tries again.
    pub fn create(&self, sql: &str) -> Result<(), ConnectError> {
        let is_collision = |error: &Error| {
            error.code().is_some_and(|code| [SqlState::UNIQUE_VIOLATION, SqlState::DUPLICATE_TABLE].contains(code))
        };
        match self.call(self.client.batch_execute(sql))? {
            Err(error) if is_collision(&error) => self.batch(sql),
            created => created.map_err(|error| failed(&self.name, &error)),
        }
    }

    /// Runs a statement; how many rows it touched.
    pub fn execute(&self, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Result<u64, ConnectError> {
        self.wait(self.client.execute(sql, values))
    }

    /// Runs a query.
    pub fn query(&self, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, ConnectError> {
        self.wait(self.client.query(sql, values))
    }

    /// Runs a `COPY … FROM STDIN` with what `next` gives until it gives nothing; how many rows that was.
    pub fn copy(
        &self,
        sql: &str,
        mut next: impl FnMut() -> Result<Option<Bytes>, ConnectError>,
    ) -> Result<u64, ConnectError> {
        let mut sink = Box::pin(self.wait(self.client.copy_in::<_, Bytes>(sql))?);
        while let Some(bytes) = next()? {
            if let Err(error) = self.wait(sink.send(bytes)) {
                // A server that refuses a row stops to listen; why, it says at the end.
                return Err(self.wait(sink.as_mut().finish()).err().unwrap_or(error));
            }
        }
        self.wait(sink.as_mut().finish())
    }

    fn wait<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Result<T, ConnectError> {
        self.call(call)?.map_err(|error| failed(&self.name, &error))
    }

    fn call<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Result<Result<T, Error>, ConnectError> {
        let done = self.runtime.block_on(async { timeout(self.patience, call).await });
        done.map_err(|_| late(&self.name, "no answer", self.patience))
    }
}

fn config(sink: &PostgresSink, name: &str) -> Result<Config, ConnectError> {
    let refused = |reason: String| ConnectError::Database { name: name.to_owned(), reason, fault: Fault::Permanent };
    let mut config = parse_url(&sink.url).map_err(refused)?;
    if let Some(path) = &sink.password_file {
        let read = fs::read_to_string(path);
        let password = read.map_err(|source| ConnectError::Open { path: path.clone(), source })?;
        config.password(password.trim_end_matches(['\n', '\r']));
    }
    config.ssl_mode(match sink.tls {
        Tls::Disable => SslMode::Disable,
        Tls::Prefer => SslMode::Prefer,
        Tls::Require | Tls::VerifyFull => SslMode::Require,
    });
    config.application_name(&sink.application_name).connect_timeout(sink.connect_timeout);
    config.tcp_user_timeout(SILENCE).keepalives_idle(PROBE_IDLE).keepalives_interval(GRACE).keepalives_retries(3);
    Ok(config)
}

fn late(name: &str, what: &str, after: Duration) -> ConnectError {
    let reason = format!("{what} within {} s", after.as_secs_f64());
    ConnectError::Database { name: name.to_owned(), reason, fault: Fault::Transient }
}

/// An error of the client, or of the server in its own words.
fn failed(name: &str, error: &Error) -> ConnectError {
    ConnectError::Database { name: name.to_owned(), reason: words(error), fault: fault(error) }
}

fn words(error: &Error) -> String {
    let Some(refusal) = error.as_db_error() else {
        let mut words = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            words = format!("{words}: {error}");
            cause = error.source();
        }
        return words;
    };
    let mut words = refusal.message().to_owned();
    let further = [refusal.detail(), refusal.where_(), refusal.hint().or(hint(refusal.code()))];
    for part in further.into_iter().flatten() {
        words = format!("{words}; {part}");
    }
    format!("{words} (SQLSTATE {})", refusal.code().code())
}

/// What to do, where the server does not say it.
fn hint(code: &SqlState) -> Option<&'static str> {
    match *code {
        SqlState::INVALID_PASSWORD | SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            Some("look at the user in `url`, at its password or `password_file`, and at the server's pg_hba.conf")
        }
        SqlState::INVALID_CATALOG_NAME => Some("name another database in `url`, or create it"),
        SqlState::INVALID_SCHEMA_NAME => Some("name another `schema`, or create it"),
        SqlState::INSUFFICIENT_PRIVILEGE => {
            Some("the user needs CREATE on the schema, or the tables, with SELECT, INSERT and UPDATE on them")
        }
        _ => None,
    }
}

fn fault(error: &Error) -> Fault {
    if let Some(code) = error.code() {
        return fault_of(code.code());
    }
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            // A certificate that is refused does not get better, nor does a server that speaks something else.
            let is_wrong = matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput);
            return if is_wrong { Fault::Permanent } else { Fault::Transient };
        }
        cause = error.source();
    }
    if error.is_closed() { Fault::Transient } else { Fault::Permanent }
}

/// Whether it gets better by waiting, by the code that the server gives.
pub fn fault_of(code: &str) -> Fault {
    match code {
        // disk_full
        "53100" => Fault::OutOfSpace,
        // serialization failures, deadlocks and unknown ends of statements; locks
        "40001" | "40P01" | "40003" | "55P03" | "55006" => Fault::Transient,
        // cancelled, shut down, crashed, starting, idle for too long
        "57014" | "57P01" | "57P02" | "57P03" | "57P05" | "25P03" => Fault::Transient,
        // a standby that is about to become a primary
        "25006" => Fault::Transient,
        // connections, resources
        _ if code.starts_with("08") || code.starts_with("53") => Fault::Transient,
        _ => Fault::Permanent,
    }
}
