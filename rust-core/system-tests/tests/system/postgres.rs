//! The `postgres` sink against real servers: what it writes, what it refuses, and what kills do to it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringmill_system_tests::chaos::{Chance, Fallen, Progress, kill_after, newest_checkpoint, rounds};
use ringmill_system_tests::page::Page;
use ringmill_system_tests::postgres::{Postgres, USER};
use ringmill_system_tests::{Job, read_until, until};

/// Rows as they come into one table, windows into another, and the newest window of each key into a third.
fn job(url: &str, rows: u64) -> Job {
    let pipeline = format!(
        r#"
[pipeline]
shards = 1

[checkpoint]
path = "state"
interval = "40ms"

[sources.sensors]
kind = "generator"
keys = 100
rows = {rows}
rate = 60_000
event_time = "timestamp"

[steps.averages]
kind = "window"
inputs = ["sensors"]
key = ["device_id"]
window = {{ tumbling = "10s" }}
aggregates = {{ mean = "mean(temperature)", readings = "count()", all = "collect(humidity)" }}

[sinks.rows]
kind = "postgres"
inputs = ["sensors"]
url = "{url}"
schema = "disturbed"
table = "rows"
create = true

[sinks.windows]
kind = "postgres"
inputs = ["averages"]
url = "{url}"
schema = "disturbed"
table = "windows"
create = true

[sinks.newest]
kind = "postgres"
inputs = ["averages"]
url = "{url}"
schema = "disturbed"
table = "newest"
create = true
mode = "upsert"
conflict = ["device_id"]
"#
    );
    Job::new(&pipeline, "")
}

const ROWS_MANY: u64 = 120_000;
const ROWS_FEW: u64 = 20_000;
const AT_ONCE: &str = "sources.sensors.rate=1_000_000_000";
const TABLES: [&str; 3] = ["rows", "windows", "newest"];

/// A server in which an undisturbed run has filled its tables.
fn server_with_reference(rows: u64) -> Option<Postgres> {
    let server = Postgres::start()?;
    server.sql("CREATE SCHEMA undisturbed; CREATE SCHEMA disturbed");
    let job = job(&server.url(), rows);
    let schemas = ["rows", "windows", "newest"].map(|sink| format!("sinks.{sink}.schema=\"undisturbed\""));
    let mut settings: Vec<&str> = schemas.iter().map(String::as_str).collect();
    settings.push(AT_ONCE);
    assert_eq!(job.run(&settings).figure("/rows/in"), rows);
    assert_eq!(count(&server, "undisturbed", "rows"), rows);
    assert_eq!(count(&server, "undisturbed", "newest"), 100);
    Some(server)
}

fn count(server: &Postgres, schema: &str, table: &str) -> u64 {
    server.ask(&format!("SELECT count(*) FROM {schema}.{table}")).parse().unwrap_or(0)
}

/// Every row of the undisturbed run is there as often as there, and nothing else is.
fn assert_same(server: &Postgres) {
    for table in TABLES {
        let (left, right) = (format!("TABLE disturbed.{table}"), format!("TABLE undisturbed.{table}"));
        let other = format!("({left} EXCEPT ALL {right}) UNION ALL ({right} EXCEPT ALL {left})");
        assert_eq!(server.sql(&format!("SELECT * FROM ({other}) other LIMIT 5")), "", "{table}");
        assert_eq!(count(server, "disturbed", table), count(server, "undisturbed", table));
    }
}

fn clear(server: &Postgres) {
    server.sql("DROP SCHEMA disturbed CASCADE; CREATE SCHEMA disturbed");
}

#[test]
fn a_core_killed_at_random_times_writes_every_row_once() {
    let mut chance = Chance::from_environment("core kills with a PostgreSQL sink");
    let Some(server) = server_with_reference(ROWS_MANY) else { return };
    let wanted = rounds("RINGMILL_POSTGRES_CORE_KILLS", 20);
    let (mut fallen, mut unfinished) = (Fallen::default(), 0);
    let mut progress = Progress::of("kills of the core", wanted);
    while fallen.total() < wanted {
        clear(&server);
        let job = job(&server.url(), ROWS_MANY);
        let before = fallen.total();
        while fallen.total() < wanted {
            let (state, mut child) = (job.path("state"), job.start(&[]));
            let (known, is_early) = (newest_checkpoint(&state), chance.below(5) == 0);
            let time = chance.between(Duration::ZERO, Duration::from_millis(if is_early { 300 } else { 100 }));
            if !kill_after(&mut child, || is_early || newest_checkpoint(&state) > known, time) {
                break;
            }
            fallen.note(&state);
            progress.at(fallen.total());
            unfinished += u64::from(count(&server, "disturbed", "rows") < ROWS_MANY);
        }
        assert!(fallen.total() > before, "a job ended before it was killed");
        assert_eq!(job.run(&[AT_ONCE]).figure("/rows/in"), ROWS_MANY, "totals go on from the checkpoint");
        assert_same(&server);
    }
    println!("{} kills of the core, {unfinished} of them with rows to come:\n{fallen}", fallen.total());
    assert!(unfinished * 2 >= fallen.total(), "too few kills met work in flight");
}

#[test]
fn a_core_killed_at_every_place_of_the_protocol_writes_every_row_once() {
    let Some(server) = server_with_reference(ROWS_FEW) else { return };
    let places = ["connect", "connected", "create", "created", "begin", "copied", "commit", "committed"];
    let staging = ["stage.synced", "stage.remove", "stage.removed"];
    for (number, place) in places.iter().chain(&staging).enumerate() {
        clear(&server);
        let job = job(&server.url(), ROWS_FEW);
        // Three sinks come by, so that the third hit is one in the middle.
        let failpoint = format!("kill:sink.postgres.{place}:{}", 1 + number % 3);
        let mut command = job.command(&[AT_ONCE]);
        let status = command.env("RINGMILL_FAILPOINT", &failpoint).status().expect("the command is built");
        assert_eq!(status.code(), None, "{failpoint} was not reached");
        assert_eq!(job.run(&[AT_ONCE]).figure("/rows/in"), ROWS_FEW, "{failpoint}");
        assert_same(&server);
    }
}

#[test]
fn a_server_killed_in_mid_stream_is_waited_for_and_gets_every_row_once() {
    let mut chance = Chance::from_environment("kills of PostgreSQL");
    let Some(mut server) = server_with_reference(ROWS_MANY) else { return };
    let kills = rounds("RINGMILL_POSTGRES_KILLS", 10);
    let job = job(&server.url(), ROWS_MANY);
    // It is away when the run begins, too.
    server.kill();
    // Slow enough that there are rows left for the last kill; what is left then comes at once, in a run of its own.
    let rate = format!("sources.sensors.rate={}", 30_000 / kills.max(10));
    let mut child = job.start(&[&rate]);
    let seen = read_until(&mut child, "cannot write table disturbed.rows of postgres://");
    assert!(!seen.contains("error:"), "{seen}");
    let mut stderr = child.stderr.take().expect("a pipe");
    let said = std::thread::spawn(move || {
        let mut said = String::new();
        stderr.read_to_string(&mut said).map(|_| said)
    });
    server.go_on();
    let mut is_over = false;
    for _ in Progress::over("kills of PostgreSQL", kills) {
        let known = newest_checkpoint(&job.path("state"));
        while !is_over && newest_checkpoint(&job.path("state")) <= known + 1 {
            is_over = child.try_wait().expect("a child").is_some();
            std::thread::sleep(Duration::from_millis(2));
        }
        if is_over {
            break;
        }
        std::thread::sleep(chance.between(Duration::ZERO, Duration::from_millis(60)));
        server.kill();
        server.go_on();
    }
    if is_over {
        panic!("the run ended before all kills: {:?}", said.join().expect("a thread"));
    }
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).expect("it runs");
    assert!(job.wait(child).figure("/rows/in") < ROWS_MANY);
    assert_eq!(job.run(&[AT_ONCE]).figure("/rows/in"), ROWS_MANY);
    let said = said.join().expect("a thread").expect("what it said is text");
    assert!(said.contains("paused: sink ") && said.contains(" goes on"), "{said}");
    assert_same(&server);
}

/// Passes everything on, but cuts the connection when a commit was sent, before its answer comes, so many times.
fn forgetful_proxy(to: u16, cuts: &Arc<AtomicU32>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let cuts = cuts.clone();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else { continue };
            let (mut answers, mut back) =
                (server.try_clone().expect("a socket"), client.try_clone().expect("a socket"));
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut answers, &mut back);
                let _ = back.shutdown(Shutdown::Both);
            });
            let cuts = cuts.clone();
            std::thread::spawn(move || pass_on(client, server, &cuts));
        }
    });
    port
}

fn pass_on(mut client: TcpStream, mut server: TcpStream, cuts: &AtomicU32) {
    let mut bytes = vec![0; 1 << 16];
    while let Ok(count @ 1..) = client.read(&mut bytes) {
        let is_commit = bytes[..count].windows(7).any(|window| window == b"COMMIT\0");
        let takes = |left: u32| left.checked_sub(1);
        if is_commit && cuts.fetch_update(Ordering::SeqCst, Ordering::SeqCst, takes).is_ok() {
            // The answer has nowhere to go, and then the commit is on its way.
            let _ = client.shutdown(Shutdown::Both);
            let _ = server.write_all(&bytes[..count]);
            let _ = server.read(&mut [0; 1]);
            break;
        }
        if server.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = client.shutdown(Shutdown::Both);
    let _ = server.shutdown(Shutdown::Both);
}

#[test]
fn a_commit_whose_answer_is_lost_is_not_made_twice() {
    let Some(server) = server_with_reference(ROWS_MANY) else { return };
    // With checkpoints and without, where every chunk of rows is a transaction.
    for checkpoints in [true, false] {
        clear(&server);
        let cuts = Arc::new(AtomicU32::new(8));
        let port = forgetful_proxy(server.port(), &cuts);
        let job = job(&format!("postgres://{USER}@127.0.0.1:{port}/postgres"), ROWS_MANY);
        if !checkpoints {
            let pipeline = job.read("pipeline.toml");
            let (before, after) = pipeline.split_once("[checkpoint]").expect("the table");
            let (_, after) = after.split_once("[sources").expect("the next table");
            job.write("pipeline.toml", format!("{before}[sources{after}"));
        }
        assert_eq!(job.run(&["sources.sensors.rate=100_000"]).figure("/rows/in"), ROWS_MANY);
        assert_eq!(cuts.load(Ordering::SeqCst), 0, "not every cut was made");
        assert_same(&server);
        let left = server.sql("SELECT count(*) FROM disturbed.ringmill_epochs");
        assert_eq!(left, if checkpoints { "3" } else { "0" });
    }
}

#[test]
fn locks_timeouts_and_ended_connections_are_waited_out() {
    let Some(server) = server_with_reference(ROWS_MANY) else { return };
    let job = job(&server.url(), ROWS_MANY);
    let mut child = job.start(&["sinks.rows.statement_timeout=\"1s\""]);
    while count(&server, "disturbed", "rows") == 0 {
        assert!(child.try_wait().expect("a child").is_none(), "the run ended too early");
    }
    let mut holder = server.session();
    let input = holder.stdin.as_mut().expect("a pipe");
    input.write_all(b"BEGIN; LOCK TABLE disturbed.rows;\n").expect("psql reads");
    let seen = read_until(&mut child, "paused: sink rows");
    assert!(!seen.contains("error:"), "{seen}");
    holder.kill().expect("a child");
    holder.wait().expect("a child");
    for _ in 0..3 {
        let ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ringmill'";
        server.sql(ended);
    }
    assert_eq!(job.wait(child).figure("/rows/in"), ROWS_MANY);
    assert_same(&server);
}

#[test]
fn a_table_that_another_one_creates_at_the_same_time_is_taken() {
    let Some(server) = server_with_reference(ROWS_FEW) else { return };
    let job = job(&server.url(), ROWS_FEW);
    let is_so =
        |condition: &str| server.ask(&format!("SELECT count(*) > 0 FROM pg_stat_activity WHERE {condition}")) == "t";
    let mut other = server.session();
    let mut input = other.stdin.take().expect("a pipe");
    let epochs = "disturbed.ringmill_epochs (sink text PRIMARY KEY, epoch bigint NOT NULL, committed_at timestamptz)";
    input.write_all(format!("BEGIN; CREATE TABLE {epochs};\n").as_bytes()).expect("psql reads");
    until(&mut other, || is_so("state = 'idle in transaction' AND query LIKE '%ringmill_epochs%'"));
    let mut child = job.start(&[AT_ONCE]);
    until(&mut child, || is_so("application_name = 'ringmill' AND wait_event_type = 'Lock'"));
    input.write_all(b"COMMIT;\n").expect("psql reads");
    assert_eq!(job.wait(child).figure("/rows/in"), ROWS_FEW);
    assert_same(&server);
    other.kill().expect("a child");
    other.wait().expect("a child");
}

/// One row with every type, and an empty one.
const KINDS: &str = r#"
[sources.lines]
kind = "file"
path = "in.ndjson"
record_size_max = "16MiB"

[sources.lines.fields]
b = { type = "bool", nullable = true }
i8 = "int8"
i64 = { type = "int64", nullable = true }
u16 = "uint16"
u64 = { type = "uint64", nullable = true }
f32 = { type = "float32", nullable = true }
f64 = { type = "float64", nullable = true }
t = { type = "utf8", nullable = true }
y = { type = "binary", nullable = true }
ms = { type = "timestamp[ms]", nullable = true }
ns = { type = "timestamp[ns]", nullable = true }

[sinks.table]
kind = "postgres"
inputs = ["lines"]
table = "Kinds"
create = true
"#;

const ROWS: &str = r#"{"b":true,"i8":-128,"i64":-9223372036854775808,"u16":65535,"u64":18446744073709551615,"f32":0.1,"f64":4.9e-324,"t":"a\"b\\\té|\n","y":"AAEC/w==","ms":"2026-01-31T12:34:56.789Z","ns":"1969-12-31T23:59:59.999999999Z"}
{"b":false,"i8":127,"i64":9223372036854775807,"u16":0,"u64":100000000,"f32":-3.5,"f64":1e308,"t":"","y":"","ms":"-000001-01-01T00:00:00Z","ns":"2000-01-01T00:00:00Z"}
{"i8":0,"u16":1}
"#;

#[test]
fn values_are_read_as_they_were_written() {
    let Some(server) = Postgres::start() else { return };
    let url = format!("url = \"{}\"", server.url());
    let job = Job::new(&format!("{KINDS}{url}\n"), "");
    let long = "x".repeat(10 << 20);
    job.write("in.ndjson", format!("{ROWS}{{\"i8\":1,\"u16\":2,\"t\":\"{long}\"}}\n"));
    assert_eq!(job.run(&[]).figure("/rows/in"), 4);
    let select = "SELECT b, i8, i64, u16, u64, f32, f64, to_json(t), y, ms, ns FROM \"Kinds\" WHERE i8 <> 1";
    let expected = "t|-128|-9223372036854775808|65535|18446744073709551615|0.1|5e-324|\"a\\\"b\\\\\\té|\\n\"|\\x000102ff|\
                    2026-01-31 12:34:56.789+00|1969-12-31 23:59:59.999999+00\n\
                    f|127|9223372036854775807|0|100000000|-3.5|1e+308|\"\"|\\x|0002-01-01 00:00:00+00 BC|\
                    2000-01-01 00:00:00+00\n|0|||1||||||||";
    let expected = expected.replace("|0|||1||||||||", "|0||1|||||||");
    assert_eq!(server.sql(select), expected);
    assert_eq!(
        server.sql("SELECT length(t), md5(t) = md5(repeat('x', 10485760)) FROM \"Kinds\" WHERE i8 = 1"),
        "10485760|t"
    );
    let types = "SELECT string_agg(format_type(atttypid, atttypmod) || CASE WHEN attnotnull THEN '!' ELSE '' END, ',' \
                 ORDER BY attnum) FROM pg_attribute WHERE attrelid = '\"Kinds\"'::regclass AND attnum > 0";
    let declared = "boolean,smallint!,bigint,integer!,numeric,real,double precision,text,bytea,\
                    timestamp with time zone,timestamp with time zone";
    assert_eq!(server.sql(types), declared);
    // A table of one's own may have wider columns, in another order, and more of them.
    server.sql(
        "CREATE TABLE wide (ns timestamp, ms timestamp(3), y bytea, t varchar, f64 float8, f32 float8, u64 numeric(30), \
         u16 numeric, i64 numeric, i8 bigint, b bool, id bigint GENERATED ALWAYS AS IDENTITY, note text DEFAULT 'n')",
    );
    job.write("in.ndjson", ROWS);
    assert_eq!(job.run(&["sinks.table.table=\"wide\""]).figure("/rows/in"), 3);
    let select = "SELECT b, i8, i64, u16, u64, f32::real, f64, to_json(t), y, ms AT TIME ZONE 'UTC', \
                  ns AT TIME ZONE 'UTC' FROM wide WHERE note = 'n' ORDER BY id";
    assert_eq!(server.sql(select), expected);
    // A uint64 may be a bigint if its values fit.
    server.sql("ALTER TABLE wide ALTER u64 TYPE bigint USING 0");
    let ended = job.run(&["sinks.table.table=\"wide\""]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("18446744073709551615 in column \"u64\" does not fit bigint"), "{}", ended.stderr);
}

#[test]
fn the_last_row_of_a_key_is_the_one_that_stays() {
    let Some(server) = Postgres::start() else { return };
    let pipeline = format!(
        "[checkpoint]\npath = \"state\"\n[sources.lines]\nkind = \"file\"\npath = \"in.ndjson\"\n\
         fields = {{ a = \"int64\", b = \"utf8\", x = \"int64\" }}\n[sinks.table]\nkind = \"postgres\"\n\
         inputs = [\"lines\"]\nurl = \"{}\"\ntable = \"newest\"\nmode = \"upsert\"\nconflict = [\"b\", \"a\"]\n",
        server.url()
    );
    let job = Job::new(&pipeline, "");
    server
        .sql("CREATE TABLE newest (x bigint, a bigint, b text, UNIQUE (a, b)); INSERT INTO newest VALUES (0, 1, 'p')");
    let row =
        |x: u32| format!("{{\"a\":{},\"b\":\"{}\",\"x\":{x}}}\n", x % 7, if x.is_multiple_of(2) { "p" } else { "q" });
    job.write("in.ndjson", (1..=50_000).map(row).collect::<String>());
    assert_eq!(job.run(&[]).figure("/rows/in"), 50_000);
    let rows = server.sql("SELECT a, b, x FROM newest ORDER BY x");
    let expected: Vec<String> = (49_987..=50_000)
        .map(|x: u32| format!("{}|{}|{x}", x % 7, if x.is_multiple_of(2) { "p" } else { "q" }))
        .collect();
    assert_eq!(rows, expected.join("\n"));
    let again = job.run(&["sinks.table.conflict=[\"a\"]"]);
    assert!(again.stderr.contains("no unique index over (\"a\")"), "{}", again.stderr);
}

#[test]
fn what_cannot_work_is_said_at_the_start() {
    let Some(server) = Postgres::start() else { return };
    server.sql(
        "CREATE ROLE locked LOGIN PASSWORD 'right|word'; CREATE ROLE guest LOGIN; \
         CREATE TABLE narrow (i8 text, u16 smallint, i64 bigint NOT NULL, f32 real, f64 real, b bool, t text, y bytea, \
         ms timestamptz, more int NOT NULL)",
    );
    let job = Job::new(&format!("{KINDS}url = \"{}\"\n", server.url()), "");
    job.write("in.ndjson", ROWS);
    job.write("word", "wrong|word\n");
    let tcp = |user: &str, database: &str| {
        format!("sinks.table.url=\"postgres://{user}@127.0.0.1:{}/{database}\"", server.port())
    };
    let check = |settings: &[&str], expected: &[&str]| {
        let ended = job.run(settings);
        assert_ne!(ended.code, Some(0), "{settings:?}");
        for text in expected {
            assert!(ended.stderr.contains(text), "{settings:?}: {text:?} is not in {}", ended.stderr);
        }
        assert!(!ended.stderr.contains("|word"), "{}", ended.stderr);
    };
    let word = "sinks.table.password_file=\"word\"";
    let refused = ["password authentication failed for user \"locked\"", "pg_hba.conf", "28P01"];
    check(&[&tcp("locked", "postgres"), word], &refused);
    check(&[&tcp("locked:wrong|word", "postgres")], &refused);
    check(&[&tcp("locked", "postgres")], &["password missing"]);
    check(&[&tcp(USER, "nowhere")], &["database \"nowhere\" does not exist", "name another database in `url`"]);
    let no_table = ["there is no such table", "create = true"];
    check(&["sinks.table.create=false", "sinks.table.table=\"missing\""], &no_table);
    check(&["sinks.table.schema=\"missing\""], &["schema \"missing\" does not exist", "name another `schema`"]);
    let everything = [
        "column \"i8\" is text, but int8 needs smallint",
        "column \"u16\" is smallint, but uint16 needs integer",
        "column \"i64\" is NOT NULL, but the stream's may be null",
        "column \"f64\" is real, but float64 needs double precision",
        "it has no column \"u64\" (numeric)",
        "it has no column \"ns\" (timestamptz)",
        "column \"more\" is NOT NULL without a default, and the stream has none",
    ];
    check(&["sinks.table.table=\"narrow\""], &everything);
    job.write("word", "right|word");
    check(&[&tcp("locked", "postgres"), word], &["permission denied for schema public", "needs CREATE on the schema"]);
    check(&[&tcp(USER, "postgres"), "sinks.table.sslmode=\"require\""], &["server does not support TLS"]);
    job.write("in.ndjson", "{\"i8\":1,\"u16\":2,\"t\":\"a\\u0000b\"}\n");
    check(&[], &["column \"t\" has \"a\\0b\"", "NUL"]);
    job.write("in.ndjson", "{\"i8\":1,\"u16\":2,\"ms\":9223372036854775807}\n");
    check(&[], &["column \"ms\"", "ends in 294276"]);
    assert_eq!(server.sql("SELECT count(*) FROM \"Kinds\""), "0");
}

/// A key and a certificate for `localhost`, which is signed by nobody but itself.
fn certificate(folder: &Path) -> (String, String) {
    let request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key -out certificate -days 2 \
                   -subj /CN=localhost -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE";
    let done = Command::new("openssl").args(request.split_whitespace()).current_dir(folder).output().expect("openssl");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).expect("openssl wrote it");
    (read("key"), read("certificate"))
}

#[test]
fn a_connection_is_encrypted_and_the_certificate_checked_if_that_is_asked_for() {
    let Some(mut server) = Postgres::stopped() else { return };
    let job = Job::new(KINDS, "");
    job.write("in.ndjson", ROWS);
    let (_, other) = certificate(&job.folder());
    let (key, ours) = certificate(&job.folder());
    let (key, certificate) = (server.write("key", &key), server.write("certificate", &ours));
    let files = format!("ssl_key_file = '{}'\nssl_cert_file = '{}'\n", key.display(), certificate.display());
    server.configure(&format!("ssl = on\n{files}"));
    server.write("data/pg_hba.conf", &format!("local all all trust\nhostssl all {USER} all trust\n"));
    server.go_on();
    job.write("ours.pem", ours);
    job.write("other.pem", other);
    let run = |host: &str, settings: &[&str]| {
        let url = format!("sinks.table.url=\"postgres://{USER}@{host}:{}/postgres\"", server.port());
        let settings: Vec<&str> = [url.as_str()].into_iter().chain(settings.iter().copied()).collect();
        job.run(&settings)
    };
    let full = "sinks.table.sslmode=\"verify-full\"";
    let good: [(&str, &[&str]); 3] = [
        ("localhost", &[full, "sinks.table.sslrootcert=\"ours.pem\""]),
        ("127.0.0.1", &["sinks.table.sslmode=\"require\""]),
        ("127.0.0.1", &[]),
    ];
    for (host, settings) in good {
        assert_eq!(run(host, settings).figure("/rows/in"), 3);
    }
    let bad: [(&str, &[&str], &str); 4] = [
        ("localhost", &[full, "sinks.table.sslrootcert=\"other.pem\""], "invalid peer certificate"),
        ("127.0.0.1", &[full, "sinks.table.sslrootcert=\"ours.pem\""], "invalid peer certificate"),
        ("localhost", &[full, "sinks.table.sslrootcert=\"in.ndjson\""], "it has no certificate"),
        ("127.0.0.1", &["sinks.table.sslmode=\"disable\""], "no encryption"),
    ];
    for (host, settings, expected) in bad {
        let ended = run(host, settings);
        assert_eq!(ended.code, Some(1));
        assert!(ended.stderr.contains(expected), "{settings:?}: {}", ended.stderr);
    }
    assert_eq!(server.sql("SELECT count(*) FROM \"Kinds\""), "9");
}

/// The example in the documentation is a pipeline that runs, twice with the same outcome.
#[test]
fn the_documented_example_runs() {
    let Some(server) = Postgres::start() else { return };
    let job = Page::read("connect/postgres").job(&[]);
    for _ in 0..2 {
        let mut command = job.command(&[]);
        command.arg("--fresh").env("DATABASE_URL", server.url());
        assert!(command.status().expect("the command is built").success());
        assert_eq!(server.sql("SELECT count(*), count(DISTINCT device_id) FROM averages"), "500|10");
    }
}
