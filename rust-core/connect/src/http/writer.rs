//! Rows to a server, request by request.

use std::{io::BufRead, ops::Range};

use ringmill_failpoint::hit;
use ringmill_wire::Schema;
use ureq::http::StatusCode;

use super::{
    Form, HttpSink, OnRefused,
    client::{Answer, Client},
    refused::RefusedRows,
    requests::{Cut, Request, Requests},
    terms::Terms,
};
use crate::{
    ConnectError, Fault,
    courier::{Courier, Refused},
    letters::Refusal,
    staging::{Sealed, StagePoints, Staged, stage_points},
};

static POINTS: StagePoints = stage_points!("sink.http");

/// Sends rows.
pub struct Sender {
    sink: HttpSink,
    /// of its rows
    form: Form,
    client: Client,
    /// where refused rows are appended, if it is a file
    file: Option<RefusedRows>,
}

impl Sender {
    pub fn open(sink: &HttpSink, schema: &Schema) -> Result<Sender, ConnectError> {
        let file = match &sink.on_refused {
            OnRefused::Append(path) => Some(RefusedRows::open(path)?),
            OnRefused::Stop | OnRefused::DeadLetter => None,
        };
        Ok(Sender { form: Form::of(sink, schema)?, sink: sink.clone(), client: Client::open(sink)?, file })
    }

    /// Sends some rows of a request, in parts if they are refused together.
    fn give(
        &mut self,
        name: &str,
        (request, rows): (&Request<'_>, Range<usize>),
        done: &mut u64,
        refused: &mut Refused<'_>,
    ) -> Result<(), ConnectError> {
        let number = |row: usize| request.first + row as u64;
        if number(rows.end) <= *done {
            return Ok(());
        }
        // Rows of which some are done were sent in parts, so they are again: a key always stands for the same rows.
        if number(rows.start) >= *done {
            let key = format!("{name}/{}-{}", number(rows.start), number(rows.end) - 1);
            hit("sink.http.send");
            let answer = self.client.send(&key, &request.form.content_type, &request.body(rows.clone()))?;
            hit("sink.http.sent");
            let Answer::Refused { status, reason } = answer else {
                *done = number(rows.end);
                return Ok(());
            };
            let is_kept = self.sink.on_refused != OnRefused::Stop;
            let is_divisible = rows.len() > 1 && (is_kept || status == StatusCode::PAYLOAD_TOO_LARGE);
            if !is_divisible {
                if !self.keep(&key, status, &reason, (request, rows.start), refused)? {
                    return Err(refusal(&self.client.name, rows.len(), &reason));
                }
                *done = number(rows.end);
                return Ok(());
            }
        }
        let middle = rows.start + rows.len() / 2;
        self.give(name, (request, rows.start..middle), done, refused)?;
        self.give(name, (request, middle..rows.end), done, refused)
    }

    /// Keeps a row that was refused alone; `false`: that is not wanted.
    fn keep(
        &mut self,
        key: &str,
        status: StatusCode,
        reason: &str,
        (request, row): (&Request<'_>, usize),
        refused: &mut Refused<'_>,
    ) -> Result<bool, ConnectError> {
        let detail = format!("Idempotency-Key: {key}");
        let refusal = Refusal { reason, detail: Some(&detail), row: request.row(row), sent: request.sent(row) };
        match (&self.sink.on_refused, &mut self.file) {
            (OnRefused::DeadLetter, _) => refused.push(&[refusal]),
            (_, Some(file)) => file.add(key, status, &refusal).map(|()| true),
            _ => Ok(false),
        }
    }
}

impl Courier for Sender {
    type Terms = Terms;

    const POINTS: (&'static StagePoints, [&'static str; 2]) = (&POINTS, ["sink.http.mark", "sink.http.marked"]);

    fn name(&self) -> &str {
        &self.client.name
    }

    fn terms(&self) -> Terms {
        Terms { cut: Cut::of(&self.sink, &self.form), form: Some(self.form.clone()) }
    }

    fn ready(&self) -> Result<(), ConnectError> {
        self.client.ready()
    }

    fn send(
        &mut self,
        key: &str,
        rows: impl BufRead,
        terms: Terms,
        done: &mut u64,
        refused: &mut Refused<'_>,
    ) -> Result<(), ConnectError> {
        let (cut, form) = terms.resolve(&self.form);
        let mut requests = Requests::new(rows, cut, &form);
        let failed = |source| ConnectError::Read { name: format!("the rows for {key}"), offset: 0, source };
        while let Some(request) = requests.next().map_err(failed)? {
            self.give(key, (&request, 0..request.rows()), done, refused)?;
        }
        Ok(())
    }

    fn staged(rows: Sealed, writer: String, terms: Terms) -> Staged {
        let Terms { cut: Cut { rows_max, bytes_max }, form } = terms;
        Staged::Http { rows, writer, rows_max, bytes_max, form }
    }

    fn unstaged(staged: Staged) -> Result<(Sealed, String, Terms), Staged> {
        match staged {
            Staged::Http { rows, writer, rows_max, bytes_max, form } => {
                Ok((rows, writer, Terms { cut: Cut { rows_max, bytes_max }, form }))
            }
            other => Err(other),
        }
    }
}

fn refusal(name: &str, rows: usize, reason: &str) -> ConnectError {
    let reason = format!(
        "{reason} (rows in the request: {rows}; on_refused = \"dead_letter\" or refused_path keeps those that it refuses)"
    );
    ConnectError::Database { name: name.to_owned(), reason, fault: Fault::Permanent }
}
