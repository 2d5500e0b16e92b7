//! How the rows of a sink are staged, and how staged rows are sent.
//!
//! Their form goes into the checkpoint with them, so that what is sent after a crash is what was to be sent before it,
//! whatever the configuration says by then.

use ringmill_wire::{DataType, Schema};

use super::{Form, HttpBody, HttpSink, OnRefused, requests::Cut};
use crate::{
    ConnectError, Encoder, Format, MessageOutput, encoder,
    formats::{csv_records, objects_of},
    message::{MessageEncoder, column_of},
};

/// What writes rows as they are staged: JSON as its lines, any other text as messages without their line ends.
pub fn row_encoder(sink: &HttpSink, schema: &Schema) -> Result<Box<dyn Encoder>, ConnectError> {
    HttpSink::check_body(sink.format, sink.body).map_err(|rule| ConnectError::Spec {
        option: "body",
        value: sink.body.name().to_owned(),
        rule,
    })?;
    let (values, beside) = match sink.format {
        Format::Json => return encoder(Format::Json, schema),
        Format::Csv => (csv_records(schema)?.0, None),
        Format::Raw => {
            let (_, others) = value_column(sink, schema)?;
            // A dead letter is to have the whole row, and the value is only a part of it. Who is told by the end of a run that
            // letters could be kept wants those of the rows that are staged by then, too.
            let is_kept = !matches!(sink.on_refused, OnRefused::Append(_)) && !others.is_empty();
            (MessageOutput::Raw.encoder(schema, &others)?, is_kept.then(|| objects_of(schema, &others)))
        }
    };
    Ok(Box::new(MessageEncoder::written(values, beside)))
}

/// The column of raw values, and all others.
fn value_column(sink: &HttpSink, schema: &Schema) -> Result<(usize, Vec<usize>), ConnectError> {
    let Some(name) = &sink.column else { return Ok((0, Vec::new())) };
    let column = column_of(("column", name), (|_| true, ""), schema)?;
    Ok((column, (0..schema.len()).filter(|other| *other != column).collect()))
}

impl Form {
    /// As a sink is configured, for rows of this schema.
    pub fn of(sink: &HttpSink, schema: &Schema) -> Result<Form, ConnectError> {
        let mut form = Form::json(sink.body);
        form.format = sink.format;
        match sink.format {
            Format::Json => {}
            Format::Csv => {
                form.content_type = "text/csv".to_owned();
                form.header = csv_records(schema)?.1;
            }
            Format::Raw => {
                let is_binary = schema.field(value_column(sink, schema)?.0).data_type == DataType::Binary;
                let usual = if is_binary { "application/octet-stream" } else { "text/plain; charset=utf-8" };
                form.content_type = usual.to_owned();
            }
        }
        if let Some(content_type) = &sink.content_type {
            form.content_type.clone_from(content_type);
        }
        Ok(form)
    }

    fn json(body: HttpBody) -> Form {
        let content_type = if body == HttpBody::Lines { "application/x-ndjson" } else { "application/json" };
        Form { format: Format::Json, body, content_type: content_type.to_owned(), header: String::new() }
    }
}

/// How staged rows are to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// how much goes into a request
    pub cut: Cut,
    /// how they were written; `None`: an earlier version did it, as JSON
    pub form: Option<Form>,
}

impl Terms {
    /// What they come to in a sink that writes its own rows in the form `own`.
    pub fn resolve(self, own: &Form) -> (Cut, Form) {
        let Terms { mut cut, form } = self;
        let form = match form {
            // A content type that was a mistake can be mended.
            Some(form) if (form.format, form.body) == (own.format, own.body) => {
                Form { content_type: own.content_type.clone(), ..form }
            }
            Some(form) => form,
            // It staged rows that were to go alone with just this limit, and others were perhaps taken together.
            None if own.format == Format::Json && (own.body != HttpBody::Row || cut.rows_max == 1) => own.clone(),
            None => Form::json(HttpBody::Lines),
        };
        if form.body == HttpBody::Row {
            cut.rows_max = 1;
        }
        (cut, form)
    }
}
