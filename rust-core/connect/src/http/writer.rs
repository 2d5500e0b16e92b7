//! Rows to a server, request by request.

use std::{io::BufRead, ops::Range};

use ringmill_failpoint::hit;
use ureq::http::StatusCode;

use super::{
    HttpSink,
    client::{Answer, Client},
    refused::RefusedRows,
    requests::{Cut, Request, Requests},
};
use crate::{
    ConnectError, Fault,
    courier::Courier,
    staging::{Sealed, StagePoints, Staged, stage_points},
};

static POINTS: StagePoints = stage_points!("sink.http");

/// Sends rows.
pub struct Sender {
    sink: HttpSink,
    client: Client,
    refused: Option<RefusedRows>,
}

impl Sender {
    pub fn open(sink: &HttpSink) -> Result<Sender, ConnectError> {
        let refused = sink.refused.as_deref().map(RefusedRows::open).transpose()?;
        Ok(Sender { sink: sink.clone(), client: Client::open(sink)?, refused })
    }

    /// Sends some rows of a request, in parts if they are refused together.
    fn give(&mut self, name: &str, request: &Request, rows: Range<usize>, done: &mut u64) -> Result<(), ConnectError> {
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
            let is_divisible = rows.len() > 1 && (self.refused.is_some() || status == StatusCode::PAYLOAD_TOO_LARGE);
            if !is_divisible {
                let refused = self.refused.as_mut().ok_or_else(|| refusal(&self.client.name, rows.len(), &reason))?;
                refused.add(&key, status, &reason, request.row(rows.start))?;
                *done = number(rows.end);
                return Ok(());
            }
        }
        let middle = rows.start + rows.len() / 2;
        self.give(name, request, rows.start..middle, done)?;
        self.give(name, request, middle..rows.end, done)
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

    fn send(&mut self, key: &str, rows: impl BufRead, cut: Cut, done: &mut u64) -> Result<(), ConnectError> {
        let mut requests = Requests::new(rows, cut);
        let failed = |source| ConnectError::Read { name: format!("the rows for {key}"), offset: 0, source };
        while let Some(request) = requests.next().map_err(failed)? {
            self.give(key, &request, 0..request.rows(), done)?;
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
    let reason = format!("{reason} (rows in the request: {rows}; refused_path keeps those aside that it refuses)");
    ConnectError::Database { name: name.to_owned(), reason, fault: Fault::Permanent }
}
