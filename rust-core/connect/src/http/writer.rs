//! Rows to a server, request by request.

use std::{io::BufRead, ops::Range};

use ringmill_failpoint::hit;
use ureq::http::StatusCode;

use super::{
    HttpSink, OnRefused,
    client::{Answer, Client},
    refused::RefusedRows,
    requests::{Cut, Request, Requests},
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
    client: Client,
    /// where refused rows are appended, if it is a file
    file: Option<RefusedRows>,
}

impl Sender {
    pub fn open(sink: &HttpSink) -> Result<Sender, ConnectError> {
        let file = match &sink.on_refused {
            OnRefused::Append(path) => Some(RefusedRows::open(path)?),
            OnRefused::Stop | OnRefused::DeadLetter => None,
        };
        Ok(Sender { sink: sink.clone(), client: Client::open(sink)?, file })
    }

    /// Sends some rows of a request, in parts if they are refused together.
    fn give(
        &mut self,
        name: &str,
        (request, rows): (&Request, Range<usize>),
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
            let answer = self.client.send(&key, &request.body(rows.clone(), self.sink.body))?;
            hit("sink.http.sent");
            let Answer::Refused { status, reason } = answer else {
                *done = number(rows.end);
                return Ok(());
            };
            let is_kept = self.sink.on_refused != OnRefused::Stop;
            let is_divisible = rows.len() > 1 && (is_kept || status == StatusCode::PAYLOAD_TOO_LARGE);
            if !is_divisible {
                if !self.keep(&key, status, &reason, request.row(rows.start), refused)? {
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
        row: &[u8],
        refused: &mut Refused<'_>,
    ) -> Result<bool, ConnectError> {
        match (&self.sink.on_refused, &mut self.file) {
            (OnRefused::DeadLetter, _) => {
                let detail = format!("Idempotency-Key: {key}");
                refused.push(&[Refusal { reason, detail: Some(&detail), row }])
            }
            (_, Some(file)) => file.add(key, status, reason, row).map(|()| true),
            _ => Ok(false),
        }
    }
}

impl Courier for Sender {
    type Terms = Cut;

    const POINTS: (&'static StagePoints, [&'static str; 2]) = (&POINTS, ["sink.http.mark", "sink.http.marked"]);

    fn name(&self) -> &str {
        &self.client.name
    }

    fn terms(&self) -> Cut {
        Cut::of(&self.sink)
    }

    fn ready(&self) -> Result<(), ConnectError> {
        self.client.ready()
    }

    fn send(
        &mut self,
        key: &str,
        rows: impl BufRead,
        cut: Cut,
        done: &mut u64,
        refused: &mut Refused<'_>,
    ) -> Result<(), ConnectError> {
        let mut requests = Requests::new(rows, cut);
        let failed = |source| ConnectError::Read { name: format!("the rows for {key}"), offset: 0, source };
        while let Some(request) = requests.next().map_err(failed)? {
            self.give(key, (&request, 0..request.rows()), done, refused)?;
        }
        Ok(())
    }

    fn staged(rows: Sealed, writer: String, cut: Cut) -> Staged {
        let Cut { rows_max, bytes_max } = cut;
        Staged::Http { rows, writer, rows_max, bytes_max }
    }

    fn unstaged(staged: Staged) -> Result<(Sealed, String, Cut), Staged> {
        match staged {
            Staged::Http { rows, writer, rows_max, bytes_max } => Ok((rows, writer, Cut { rows_max, bytes_max })),
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
