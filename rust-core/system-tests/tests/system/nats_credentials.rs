//! Credentials of an operator's making, at a real NATS server that asks for them.

use std::fs;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use ringmill_system_tests::nats::Nats;
use ringmill_system_tests::{CHECKPOINT, Job, read_until, until};
use serde_json::{Value, json};

/// An operator with one account, who trusts nobody else.
struct Operator {
    own: KeyPair,
    account: KeyPair,
}

impl Operator {
    fn new() -> Operator {
        Operator { own: KeyPair::new_operator(), account: KeyPair::new_account() }
    }

    /// Settings of a server that asks for users of the account.
    fn settings(&self) -> String {
        let operator = token(&self.own, &self.own.public_key(), json!({ "type": "operator", "version": 2 }));
        let limits = json!({
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1
        });
        let claims = json!({ "type": "account", "version": 2, "limits": limits });
        let (name, account) = (self.account.public_key(), token(&self.own, &self.account.public_key(), claims));
        format!("operator: {operator}\nresolver: MEMORY\nresolver_preload: {{ {name}: {account} }}\n")
    }

    /// Credentials of a new user, who may send to these subjects alone, if there are any, until this time.
    fn credentials(&self, subjects: &[&str], expires_s: Option<u64>) -> String {
        let user = KeyPair::new_user();
        let allowed = if subjects.is_empty() { json!({}) } else { json!({ "allow": subjects }) };
        let claims = json!({
            "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1, "pub": allowed, "sub": {},
        });
        let token = token_until(&self.account, &user.public_key(), claims, expires_s);
        let seed = user.seed().expect("a new key has one");
        format!(
            "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        )
    }
}

/// What one says of another, signed.
fn token(signer: &KeyPair, subject: &str, claims: Value) -> String {
    token_until(signer, subject, claims, None)
}

fn token_until(signer: &KeyPair, subject: &str, claims: Value, expires_s: Option<u64>) -> String {
    let mut body =
        json!({ "jti": "x", "iat": 1, "iss": signer.public_key(), "name": "mill", "sub": subject, "nats": claims });
    if let Some(expires_s) = expires_s {
        body["exp"] = json!(expires_s);
    }
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&json!({ "typ": "JWT", "alg": "ed25519-nkey" })), part(&body));
    let signature = signer.sign(signed.as_bytes()).expect("it has a seed");
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn source(server: &Nats) -> Job {
    let url = server.url();
    let job = Job::new(
        &format!(
            "{CHECKPOINT}\n[sources.messages]\nkind = \"nats_core\"\nurl = \"{url}\"\nsubjects = [\"scores.>\"]\n\
             credentials_file = \"mill.creds\"\nfields = {{ number = \"uint64\" }}\n\
             [sinks.out]\nkind = \"file\"\npath = \"out.ndjson\"\ninputs = [\"messages\"]\n"
        ),
        "",
    );
    job.write("in.ndjson", "");
    job
}

fn sink(server: &Nats) -> Job {
    let url = server.url();
    let job = Job::new(
        &format!(
            "{CHECKPOINT}\n[sources.rows]\nkind = \"file\"\npath = \"in.ndjson\"\nfields = {{ number = \"uint64\" }}\n\
             [sinks.out]\nkind = \"nats_core\"\nurl = \"{url}\"\nsubject = \"scores.all\"\n\
             credentials_file = \"mill.creds\"\ninputs = [\"rows\"]\n"
        ),
        "",
    );
    job.write("in.ndjson", (0..100).map(|number| format!("{{\"number\":{number}}}\n")).collect::<String>());
    job
}

#[test]
fn credentials_of_the_servers_operator_let_in_and_others_are_refused() {
    let Some(mut server) = Nats::stopped() else { return };
    let (operator, stranger) = (Operator::new(), Operator::new());
    server.go_on_without_streams(&operator.settings());
    let (source, sink) = (source(&server), sink(&server));
    for job in [&source, &sink] {
        job.write("mill.creds", operator.credentials(&[], None));
    }
    let mut child = source.start(&[]);
    read_until(&mut child, "subscribed to scores.>");
    let ended = sink.run(&[]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    until(&mut child, || source.whole_rows("out.ndjson").len() == 100);
    assert_eq!(source.end(child).code, Some(0));

    let refused = "it does not let us in: look at `user` and `password_file`, `token` or `credentials_file`";
    for (credentials, reason) in [
        (stranger.credentials(&[], None), refused),
        (operator.credentials(&[], Some(2)), refused),
        ("no credentials\n".to_owned(), "mill.creds has no credentials in it"),
    ] {
        for job in [&source, &sink] {
            job.write("mill.creds", &credentials);
            let ended = job.run(&[]);
            assert_ne!(ended.code, Some(0));
            assert!(ended.stderr.contains(reason), "{}", ended.stderr);
        }
    }
    for job in [&source, &sink] {
        fs::remove_file(job.path("mill.creds")).expect("it is there");
        assert!(job.run(&[]).stderr.contains("mill.creds"));
    }
}

#[test]
fn a_user_who_may_not_send_to_a_subject_is_told_so() {
    let Some(mut server) = Nats::stopped() else { return };
    let operator = Operator::new();
    server.go_on_without_streams(&operator.settings());
    let job = sink(&server);
    job.write("mill.creds", operator.credentials(&["others.>", "_INBOX.>"], None));
    let ended = job.run(&[]);
    assert_ne!(ended.code, Some(0));
    assert!(
        ended.stderr.to_lowercase().contains("permissions violation for publish to \"scores.all\""),
        "{}",
        ended.stderr
    );
}
