//! A schema registry of a test's own, behind real connections.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::{
    ConnectError, EventType, EventTypes, FieldSpec, Fields, Format, PollContext, Secret, TypePlace, encoder,
    formats::{BinaryDecoder, Records, RegistrySpec, Scratch, Taken},
    schema_of,
    testing::{Letters, batch, fields, server},
};

type Answers = BTreeMap<String, (&'static str, String)>;

/// A registry that gives these answers, and the paths that it was asked for.
pub struct Server {
    pub answers: Arc<Mutex<Answers>>,
    asked: Arc<Mutex<Vec<String>>>,
    pub spec: RegistrySpec,
}

impl Server {
    /// With these schemas, from 1 on.
    pub fn with(schemas: &[&str]) -> Server {
        let found = |(index, schema): (usize, &&str)| {
            (format!("/schemas/ids/{}", index + 1), ("200 OK", serde_json::json!({ "schema": schema }).to_string()))
        };
        let answers: Arc<Mutex<Answers>> = Arc::new(Mutex::new(schemas.iter().enumerate().map(found).collect()));
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let (known, noted) = (Arc::clone(&answers), Arc::clone(&asked));
        let address = server::serve(move |received| {
            let user = received.headers.get("authorization").map_or("", String::as_str);
            noted.lock().unwrap().push(format!("{} {user}", received.path).trim_end().to_owned());
            let unknown = || ("404 Not Found", r#"{"error_code":40403,"message":"Schema not found"}"#.to_owned());
            Some(known.lock().unwrap().get(&received.path).cloned().unwrap_or_else(unknown))
        });
        let spec = RegistrySpec {
            url: Secret::new(format!("http://{address}/")),
            user: None,
            password: None,
            root_certificates: None,
            timeout: Duration::from_secs(20),
        };
        Server { answers, asked, spec }
    }

    pub fn answer(&self, path: &str, status: &'static str, body: &str) {
        self.answers.lock().unwrap().insert(path.to_owned(), (status, body.to_owned()));
    }

    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// A message of this schema.
pub fn message(id: u32, datum: &[u8]) -> Vec<u8> {
    [&[0][..], &id.to_be_bytes(), datum].concat()
}

/// Rows and the reasons of dead letters; how often a message had to wait goes to `waited`.
pub fn decode(
    decoder: &mut BinaryDecoder,
    columns: &[&str],
    messages: &[Vec<u8>],
    waited: impl FnMut(),
) -> Result<(String, Vec<String>), ConnectError> {
    decode_fields(decoder, &fields(columns), messages, waited)
}

/// The same of these fields.
pub fn decode_fields(
    decoder: &mut BinaryDecoder,
    fields: &[FieldSpec],
    messages: &[Vec<u8>],
    mut waited: impl FnMut(),
) -> Result<(String, Vec<String>), ConnectError> {
    let schema = schema_of(fields)?;
    let mut encoder = encoder(Format::Json, &schema)?;
    let (mut out, mut letters, mut scratch) = (Vec::new(), Letters::default(), Scratch::default());
    for message in messages {
        let mut batch = batch(&schema, 2, 1 << 12);
        let mut context =
            PollContext { now_ns: 0, event_time: None, event_time_max_ns: i64::MAX, dead: &mut letters, rows_max: 9 };
        let mut records = Records::new(batch.writer(), &mut context, "t/0", fields, &mut scratch, 9);
        while decoder.decode(b"", message, &mut records)? == Taken::Later {
            assert_eq!(records.consumed, 0);
            waited();
            std::thread::yield_now();
        }
        encoder.encode(&batch.view(), 0..batch.rows() as usize, &mut out);
    }
    let reasons = letters.taken.into_iter().map(|letter| letter.reason);
    Ok((String::from_utf8(out).unwrap(), reasons.collect()))
}

/// Types of events that schemas of these names tell, each with these columns.
pub fn types(types: &[(&str, &[&str])]) -> Fields {
    let event_type = |(name, columns): &(&str, &[&str])| EventType {
        name: name.rsplit('.').next().unwrap().to_owned(),
        values: vec![(*name).to_owned()],
        fields: fields(columns),
        event_time: None,
    };
    EventTypes::new(TypePlace::Schema, types.iter().map(event_type).collect()).unwrap().into()
}
