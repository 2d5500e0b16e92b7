//! Producers (`rm.connect`): rows that other processes send come once and in order, whichever process is killed and
//! whenever, and nothing that comes through their socket or their memory harms the run.
//!
//!   RINGMILL_PRODUCER_KILLS  processes killed in each of the killing tests (default 24)
//!   RINGMILL_KILL_SEED       the moments at which they are killed (default: anything)

use std::collections::BTreeMap;
use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ringmill_system_tests::chaos::{Chance, Progress, kill_after, kill_now, newest_checkpoint, rounds};
use ringmill_system_tests::{CHECKPOINT, Ended, Job, python, terminate, until};
use serde_json::{Value, json};

fn pipeline(keys: &str) -> String {
    format!(
        r#"
[pipeline]
name = "pipeline"
shards = 2

[sources.numbers]
kind = "producer"
fields = {{ number = "int64", producer = "utf8" }}
{keys}

[sinks.out]
kind = "file"
inputs = ["numbers"]
path = "out.ndjson"
"#
    )
}

/// Starts a Python script beside the pipeline; what it says goes to a file.
fn start(job: &Job, script: &str, arguments: &[&str], log: &str) -> Child {
    let log = File::options().create(true).append(true).open(job.path(log)).expect("the folder can be written");
    let mut command = Command::new(python());
    command.arg(script).args(arguments).current_dir(job.folder()).env("XDG_RUNTIME_DIR", job.folder());
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("a descriptor")).stderr(log);
    command.spawn().expect("Python is there")
}

/// Runs a Python script beside the pipeline to its end; what it printed.
fn script(job: &Job, text: &str) -> String {
    job.write("script.py", format!("import numpy as np\nimport ringmill as rm\n{text}"));
    let mut child = start(job, "script.py", &[], "script.log");
    let status = child.wait().expect("a child can be waited for");
    let said = job.read("script.log");
    assert!(status.success(), "{said}");
    std::fs::remove_file(job.path("script.log")).expect("it was there");
    said
}

/// Fails if a producer has ended that should go on.
fn check_running(job: &Job, producers: &mut [Child], log: &str) {
    for producer in producers {
        assert!(producer.try_wait().expect("a child can be waited for").is_none(), "{}", job.read(log));
    }
}

/// Sends numbers from where it is told to on, in batches of any size, until the file `most` says that it is enough.
///
/// Producer `a` counts its rows; producer `b` has positions of its own, in steps that are longer than a batch.
const SEND: &str = "
import pathlib, random, sys
import numpy as np, ringmill as rm

name, seed = sys.argv[1], sys.argv[2]
chance = random.Random(seed)

def most():
    file = pathlib.Path('most')
    return int(file.read_text()) if file.exists() else 1 << 60

while True:
    try:
        with rm.connect('pipeline', producer=name, connect_timeout=120) as producer:
            assert producer.name == name
            at = producer.position or 0
            if isinstance(at, dict):
                at = at['next']
            while at < most():
                step = chance.randrange(1, 300) if name == 'a' else 500
                numbers = np.arange(at, min(at + step, most()))
                at += len(numbers)
                columns = {'number': numbers, 'producer': [name] * len(numbers)}
                producer.send(columns, position={'next': at} if name == 'b' else None)
        break
    except rm.Disconnected as error:
        print(error, flush=True)
print('closed')
";

/// Fails unless every producer has its numbers from 0 on, each once and in order; how many there are of each.
fn check_prefixes(rows: &[Value]) -> BTreeMap<String, i64> {
    let mut next: BTreeMap<String, i64> = BTreeMap::new();
    for row in rows {
        let next = next.entry(row["producer"].as_str().expect("a name").to_owned()).or_default();
        assert_eq!(row["number"].as_i64(), Some(*next), "the next number of {}", row["producer"]);
        *next += 1;
    }
    next
}

fn length(job: &Job) -> u64 {
    std::fs::metadata(job.path("out.ndjson")).map_or(0, |file| file.len())
}

const OFTEN: &str = "producers = [\"a\", \"b\"]\nreplayable = true\nend = \"closed\"\nrate = 40_000\nbatch_rows = 64\n";

#[test]
fn producers_killed_at_random_are_told_where_to_go_on_and_no_row_is_lost_or_repeated() {
    let wanted = rounds("RINGMILL_PRODUCER_KILLS", 24);
    let mut chance = Chance::from_environment("kills of producers");
    let job = Job::new(&[&pipeline(OFTEN), CHECKPOINT].concat(), "");
    job.write("send.py", SEND);
    let mut core = job.command(&[]).stderr(File::create(job.path("log")).unwrap()).spawn().unwrap();
    let names = ["a", "b"];
    let mut producers: Vec<Child> = names.iter().map(|name| start(&job, "send.py", &[name, "0"], "sent")).collect();
    for round in Progress::over("kills of a producer", wanted) {
        let shown = length(&job);
        until(&mut core, || {
            check_running(&job, &mut producers, "sent");
            length(&job) > shown
        });
        std::thread::sleep(chance.between(Duration::ZERO, Duration::from_millis(60)));
        let victim = chance.below(2) as usize;
        kill_now(producers[victim].id() as i32);
        producers[victim].wait().unwrap();
        let connected = format!("a producer has connected producer=numbers/{}", names[victim]);
        let connections = |job: &Job| job.read("log").matches(&connected).count();
        let before = connections(&job);
        producers[victim] = start(&job, "send.py", &[names[victim], &round.to_string()], "sent");
        until(&mut core, || {
            check_running(&job, &mut producers, "sent");
            connections(&job) > before
        });
    }
    let counts = check_prefixes(&job.whole_rows("out.ndjson"));
    let most = counts.values().max().unwrap() + 5_000;
    job.write("most.new", most.to_string());
    std::fs::rename(job.path("most.new"), job.path("most")).unwrap();
    producers.iter_mut().for_each(|producer| assert!(producer.wait().unwrap().success(), "{}", job.read("sent")));
    let ended = job.wait(core);
    assert_eq!(ended.code, Some(0), "{}", job.read("log"));
    let counts = check_prefixes(&job.rows("out.ndjson"));
    // One may have been beyond the end when it was told of it.
    assert!(counts.len() == 2 && counts.values().all(|count| *count >= most), "{counts:?}");
    assert_eq!(ended.figure("/rows/in"), counts.values().sum::<i64>() as u64);
    assert!(job.read("log").contains("is gone without having closed"));
}

#[test]
fn a_core_killed_at_random_tells_its_producers_where_its_checkpoint_stands() {
    let wanted = rounds("RINGMILL_PRODUCER_KILLS", 24);
    let mut chance = Chance::from_environment("kills of the core under producers");
    let job = Job::new(&[&pipeline(OFTEN), CHECKPOINT].concat(), "");
    job.write("send.py", SEND);
    let mut producers = ["a", "b"].map(|name| start(&job, "send.py", &[name, "1"], "sent"));
    let (mut progress, mut grown) = (Progress::of("kills of the core", wanted), 0);
    for done in 0..wanted {
        let mut core = job.start(&[]);
        let (state, shown) = (job.path("state"), length(&job));
        let known = newest_checkpoint(&state);
        let time = chance.between(Duration::ZERO, Duration::from_millis(150));
        assert!(
            kill_after(&mut core, || newest_checkpoint(&state) > known, time),
            "the run ended before it was killed"
        );
        progress.at(done + 1);
        check_prefixes(&job.whole_rows("out.ndjson"));
        grown += u64::from(length(&job) > shown);
    }
    let counts = check_prefixes(&job.whole_rows("out.ndjson"));
    let most = counts.values().max().unwrap() + 5_000;
    job.write("most.new", most.to_string());
    std::fs::rename(job.path("most.new"), job.path("most")).unwrap();
    let ended = job.run(&["sources.numbers.rate=1e9"]);
    ended.report();
    producers.iter_mut().for_each(|producer| assert!(producer.wait().unwrap().success(), "{}", job.read("sent")));
    let counts = check_prefixes(&job.rows("out.ndjson"));
    assert!(counts.len() == 2 && counts.values().all(|count| *count >= most), "{counts:?} of {most}");
    println!("{wanted} kills of the core; rows had come in {grown} runs");
    assert!(grown * 2 > wanted && job.read("sent").contains("has ended or died"));
}

const TYPES: &str = r#"
[pipeline]
name = "pipeline"

[sources.rows]
kind = "producer"
end = "closed"
batch_rows = 4
event_time = "t"
[sources.rows.fields]
i8 = "int8"
i16 = "int16"
i32 = "int32"
i64 = "int64"
u8 = "uint8"
u16 = "uint16"
u32 = "uint32"
u64 = "uint64"
f32 = "float32"
f64 = "float64"
b = "bool"
s = "utf8"
raw = "binary"
t = "timestamp[us]"
maybe = { type = "utf8", nullable = true }
maybe_n = { type = "int64", nullable = true }

[sinks.out]
kind = "file"
inputs = ["rows"]
path = "out.ndjson"
"#;

const ALL_TYPES: &str = "
import pyarrow as pa, polars as pl
n = np.arange(11)
columns = {
    'i8': n.astype('i1'), 'i16': n.astype('i2'), 'i32': n.astype('i4'), 'i64': n, 'u8': n.astype('u1'),
    'u16': n.astype('u2'), 'u32': n.astype('u4'), 'u64': n.astype('u8'), 'f32': (n / 2).astype('f4'), 'f64': n / 4,
    'b': n % 2 == 0, 's': [f'é{i}' for i in n], 'raw': [bytes([65 + i]) for i in n],
    't': (1_700_000_000_000_000 + n).astype('datetime64[us]'),
    'maybe': [None if i % 3 else 'x' for i in n], 'maybe_n': np.ma.array(n, mask=n % 2 == 1),
}
plain = {**columns, 'maybe_n': [int(i) if i % 2 == 0 else None for i in n]}
table = pa.table({**plain, 'raw': pa.array(plain['raw'], pa.binary())})
with rm.connect('pipeline') as producer:
    producer.send(columns)
    producer.send(table)
    producer.send(pl.from_arrow(table))
    for batch in table.to_batches():
        producer.send(batch)
    producer.send({name: values[:0] for name, values in columns.items()})
";

#[test]
fn rows_of_all_types_arrive_as_they_were_sent_from_arrays_tables_and_frames() {
    let job = Job::new(TYPES, "");
    let core = job.start(&[]);
    script(&job, ALL_TYPES);
    let ended = job.wait(core);
    ended.report();
    let rows = job.rows("out.ndjson");
    assert_eq!(rows.len(), 44, "{}", ended.stderr);
    for (index, row) in rows.iter().enumerate() {
        let n = index % 11;
        for whole in ["i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64"] {
            assert_eq!(row[whole], json!(n), "{whole} of row {index}");
        }
        assert_eq!((&row["f32"], &row["f64"]), (&json!(n as f64 / 2.0), &json!(n as f64 / 4.0)));
        assert_eq!((&row["b"], &row["s"]), (&json!(n % 2 == 0), &json!(format!("é{n}"))));
        assert_eq!(row["t"], json!(format!("2023-11-14T22:13:20.{n:06}Z")));
        assert_eq!(row["maybe"], if n % 3 == 0 { json!("x") } else { Value::Null });
        assert_eq!(row["maybe_n"], if n % 2 == 0 { json!(n) } else { Value::Null });
        assert_eq!(row["raw"], rows[n]["raw"]);
    }
}

#[test]
fn a_pipeline_that_is_behind_holds_a_producer_back_or_tells_it_so() {
    let job = Job::new(&pipeline("batch_rows = 10\nslots = 2\nrate = 2_000\nend = \"closed\"\n"), "");
    let core = job.start(&[]);
    let said = script(
        &job,
        "
import time
def rows(first, count):
    return {'number': np.arange(first, first + count), 'producer': ['p'] * count}

sent = full = 0
with rm.connect('pipeline') as producer:
    while full < 20:
        try:
            producer.send(rows(sent, 10), block=False)
            sent += 10
        except rm.Full as error:
            assert error.sent == 0
            full += 1
    for timeout in (0.0, 0.02):
        try:
            producer.send(rows(sent, 5_000), timeout=timeout)
            raise AssertionError('5,000 rows take 2.5 s')
        except rm.Full as error:
            assert error.sent % 10 == 0 and error.sent < 5_000
            sent += error.sent
    producer.send(rows(sent, 1_000), block=True)
    sent += 1_000
print(sent)
",
    );
    let ended = job.wait(core);
    ended.report();
    let sent: i64 = said.lines().last().and_then(|line| line.parse().ok()).expect("a number");
    assert_eq!(check_prefixes(&job.rows("out.ndjson")), BTreeMap::from([("p".to_owned(), sent)]));
}

#[test]
fn strings_that_fill_a_batch_early_go_in_smaller_pieces_and_one_that_is_too_long_is_refused() {
    let job = Job::new(&pipeline("batch_rows = 1024\nbatch_bytes = \"4KiB\"\nend = \"closed\"\n"), "");
    let core = job.start(&[]);
    script(
        &job,
        "
n = np.arange(3000)
with rm.connect('pipeline') as producer:
    producer.send({'number': n, 'producer': ['x' * 100] * 3000})
    try:
        producer.send({'number': n[:3], 'producer': ['x', 'y', 'z' * 5000]})
        raise AssertionError('5,000 bytes fit into 4,096')
    except rm.OutputError as error:
        assert error.sent == 2 and 'column \"producer\"' in str(error), (error, error.sent)
",
    );
    assert_eq!(job.wait(core).figure("/rows/in"), 3_002);
}

#[test]
fn what_is_not_right_is_told_to_the_producer_and_the_run_goes_on() {
    let job = Job::new(&pipeline("producers = [\"a\", \"b\"]\nend = \"closed\"\n"), "");
    let core = job.start(&[]);
    let said = script(
        &job,
        "
def told(kind, call):
    try:
        call()
    except kind as error:
        print(error)
    else:
        raise AssertionError('nothing was wrong')

a = rm.connect('pipeline', producer='a')
told(rm.Refused, lambda: rm.connect('pipeline', producer='a'))
told(rm.Refused, lambda: rm.connect('pipeline'))
told(rm.Refused, lambda: rm.connect('pipeline', producer='b', source='rows'))
told(TimeoutError, lambda: rm.connect('other', connect_timeout=0.01))
n = np.arange(3)
told(rm.OutputError, lambda: a.send({'number': n / 2, 'producer': ['a'] * 3}))
told(rm.OutputError, lambda: a.send({'number': n, 'producer': ['a'] * 2}))
told(rm.OutputError, lambda: a.send({'number': np.arange(5000), 'producer': ['a'] * 6000}))
told(rm.OutputError, lambda: a.send({'number': n}))
told(rm.OutputError, lambda: a.send(7))
told(ValueError, lambda: a.send({'number': n, 'producer': ['a'] * 3}, position=7))
for wrong in ({1}, 5, (x for x in n)):
    told(rm.OutputError, lambda: a.send({'number': np.arange(5000), 'producer': wrong}))
told(ValueError, lambda: a.flush(durable=True))
assert a.position is None and a.acknowledged is None
a.send({'number': n, 'producer': ['a'] * 3})
with rm.connect('pipeline', producer='b', source='numbers') as b:
    b.send({'number': n, 'producer': ['b'] * 3})
a.close()
a.close()
told(ValueError, lambda: a.send({'number': n, 'producer': ['a'] * 3}))
",
    );
    for expected in [
        "producer \"a\" is connected already, as process",
        "there is no producer \"default\": `producers` of numbers names a, b",
        "there is no source \"rows\" for producers, but numbers",
        "failed to connect within 0.01 s: there is no run of pipeline 'other'",
        "source numbers: column \"number\": expected int64, got float64",
        "source numbers: column \"producer\": expected 3 rows, got 2",
        "source numbers: column 'producer': expected 5000 rows, got 6000",
        "source numbers: column 'producer': expected values, one for each row, got {1}",
        "source numbers: column 'producer': expected values, one for each row, got 5",
        "source numbers: column 'producer': expected values, one for each row, got <generator",
        "source numbers: column \"producer\": expected a column of that name",
        "source numbers: send(): expected columns by name, a table or a data frame, got 7",
        "source numbers keeps no positions: set replayable = true there",
        "it lacks replayable = true",
        "this producer is closed",
    ] {
        assert!(said.contains(expected), "{expected:?} in {said}");
    }
    let ended = job.wait(core);
    ended.report();
    assert_eq!(check_prefixes(&job.rows("out.ndjson")), BTreeMap::from([("a".to_owned(), 3), ("b".to_owned(), 3)]));
}

#[test]
fn garbage_on_the_socket_and_in_the_memory_harms_nobody_else() {
    let job = Job::new(&pipeline("producers = [\"a\", \"b\"]\nend = \"closed\"\n"), "");
    let core = job.start(&[]);
    let said = script(
        &job,
        "
import glob, json, mmap, os, socket, time
from ringmill import producer as inside

a = rm.connect('pipeline', producer='a')
n = np.arange(100)
path = glob.glob('ringmill-*/pipeline-*/producers.sock')[0]

def stranger(*messages):
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(path)
    connection.settimeout(20)
    for message in messages:
        connection.send(message)
    return connection

def answer(*messages):
    connection = stranger(*messages)
    print(connection.recv(65536).decode())
    assert connection.recv(1) == b''

hello = json.dumps({'version': 1, 'pipeline': 'pipeline', 'source': None, 'producer': 'b'}).encode()
answer(os.urandom(100))
answer(b'x' * 100_000)
answer(b'[' * 4000)
answer(hello.replace(b'1', b'2'))
answer(hello.replace(b'\"pipeline\": \"pipeline\"', b'\"pipeline\": \"other\"'))
silent = [stranger() for _ in range(30)]
for _ in range(20):
    stranger().close()
    stranger(b'').close()
# The silent ones are dropped after a while, so that others come in.
for connection in silent:
    assert connection.recv(1) == b''

def memory():
    connection = stranger()
    welcome, descriptors = inside._be_welcomed(connection, hello, time.monotonic() + 20)
    return connection, mmap.mmap(descriptors[1], os.fstat(descriptors[1]).st_size), descriptors

for seed in range(40):
    connection, response, descriptors = memory()
    junk = np.random.default_rng(seed)
    start = 4096 if seed % 2 else 0
    noise = junk.integers(0, 3 if seed % 4 < 2 else 256, len(response) - start, dtype='u1')
    response[start:] = noise.tobytes()
    os.write(descriptors[2], (1).to_bytes(8, 'little'))
    if seed == 1:
        print(connection.recv(65536).decode())
    connection.close()
    response.close()
    for descriptor in descriptors:
        os.close(descriptor)
for trailer in (b'junk', b'{}', b'{\"after\": 7}', b'{\"after\": \"' + b'x' * 20_000 + b'\"}', b'{\"after\": null, \"more\": 1}'):
    connection = stranger()
    welcome, descriptors = inside._be_welcomed(connection, hello, time.monotonic() + 20)
    sender = rm._reader.Sender(
        request_fd=descriptors[0], response_fd=descriptors[1], doorbell_fd=descriptors[2], wait='block', subject='x',
        outputs=[('number', 'int64', False), ('producer', 'utf8', False)], capacity=tuple(welcome['capacity'].values()),
    )
    assert sender.wait_free(1, 20.0)
    sender.send({'number': n, 'producer': ['x'] * 100}, 100, trailer)
    # One without a position is good here: this source keeps none.
    if trailer != b'{}':
        print(connection.recv(65536).decode())
    connection.close()
connection = stranger(hello)
connection.recv(65536)
connection.send(b'more')
print(connection.recv(65536).decode())

a.send({'number': n, 'producer': ['a'] * 100})
a.close()
with rm.connect('pipeline', producer='b') as b:
    b.send({'number': n, 'producer': ['b'] * 100})
",
    );
    for expected in [
        "its message is not understood",
        "a message of 100000 bytes, and at most 4096 can be",
        "it speaks version 2 of the hand-over, and this run version 1",
        "this run is of the pipeline \\\"pipeline\\\", not of \\\"other\\\"",
        "what follows a batch is not understood: expected value",
        "what follows a batch is not understood: invalid type: integer `7`",
        "a position is not shorter than 16384 bytes",
        "unknown field `more`",
        "a producer says nothing after its first message",
    ] {
        assert!(said.contains(expected), "{expected:?} in {said}");
    }
    let ended = job.wait(core);
    ended.report();
    assert!(ended.stderr.contains("the producer is sent away: "), "{}", ended.stderr);
    let counts = BTreeMap::from([("a", 100), ("b", 100), ("x", 100)].map(|(name, count)| (name.to_owned(), count)));
    assert_eq!(check_prefixes(&job.rows("out.ndjson")), counts);
}

#[test]
fn another_users_process_is_refused_even_where_the_folder_is_open() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root can become another user");
        return;
    }
    let job = Job::new(&pipeline(""), "");
    let core = job.start(&[]);
    let said = script(
        &job,
        "
import glob, os, socket
rm.connect('pipeline').close()
path = os.path.abspath(glob.glob('ringmill-*/pipeline-*/producers.sock')[0])
folder = path
while folder != '/':
    os.chmod(folder, 0o777)
    folder = os.path.dirname(folder)
    if folder == '/tmp':
        break
os.setgroups([])
os.setuid(65534)
connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
connection.connect(path)
print(connection.recv(65536).decode())
assert connection.recv(1) == b''
try:
    os.environ['XDG_RUNTIME_DIR'] = os.path.dirname(os.path.dirname(os.path.dirname(path)))
    rm.connect('pipeline', connect_timeout=0.01)
except TimeoutError as error:
    print(error)
",
    );
    assert!(said.contains("this run belongs to user 0, and user 65534 may not send to it"), "{said}");
    assert!(said.contains("there is no run of pipeline 'pipeline'"), "{said}");
    assert_eq!(job.end(core).code, Some(0));
}

#[test]
fn a_silent_producer_keeps_no_run_from_ending_and_is_told_of_the_end() {
    let job = Job::new(&[&pipeline("replayable = true\n"), CHECKPOINT].concat(), "");
    let mut core = job.start(&[]);
    job.write(
        "silent.py",
        "
import pathlib
import numpy as np, ringmill as rm
producer = rm.connect('pipeline')
producer.send({'number': np.arange(7), 'producer': ['p'] * 7})
try:
    producer.flush(durable=True, timeout=0.0)
    raise AssertionError('a checkpoint takes time')
except TimeoutError:
    producer.flush(durable=True)
assert producer.acknowledged == producer.position == 7
pathlib.Path('durable').touch()
try:
    producer.flush(timeout=60)
    while True:
        producer.send({'number': np.arange(0), 'producer': []}, position=7)
except rm.Disconnected as error:
    print(error)
",
    );
    let mut silent = [start(&job, "silent.py", &[], "said")];
    until(&mut core, || {
        check_running(&job, &mut silent, "said");
        job.path("durable").exists()
    });
    terminate(&core);
    let ended = job.wait(core);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(silent[0].wait().unwrap().success(), "{}", job.read("said"));
    let said = job.read("said");
    assert!(said.contains("is ending and takes no more rows") || said.contains("has ended or died"), "{said}");
    assert_eq!(check_prefixes(&job.rows("out.ndjson")), BTreeMap::from([("p".to_owned(), 7)]));
}

#[test]
fn threads_take_turns_and_a_fork_leaves_the_parent_alone() {
    let job = Job::new(&pipeline("end = \"closed\"\nbatch_rows = 16\n"), "");
    let core = job.start(&[]);
    script(
        &job,
        "
import os, threading
with rm.connect('pipeline') as producer:
    def send(name):
        for first in range(0, 2000, 40):
            producer.send({'number': np.arange(first, first + 40), 'producer': [name] * 40})
    threads = [threading.Thread(target=send, args=(name,)) for name in ('x', 'y')]
    [thread.start() for thread in threads]
    child = os.fork()
    if child == 0:
        try:
            producer.send({'number': np.arange(1), 'producer': ['child']})
        except ValueError as error:
            os._exit(3 if 'closed' in str(error) else 4)
        os._exit(5)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    [thread.join() for thread in threads]
    producer.send({'number': np.arange(1), 'producer': ['parent']})
",
    );
    let ended: Ended = job.wait(core);
    ended.report();
    let counts = check_prefixes(&job.rows("out.ndjson"));
    let expected = [("x", 2000), ("y", 2000), ("parent", 1)].map(|(name, count)| (name.to_owned(), count));
    assert_eq!(counts, BTreeMap::from(expected));
}

#[test]
fn an_exception_in_the_producer_disconnects_without_ending_the_pipeline() {
    let job = Job::new(&pipeline("end = \"closed\"\n"), "");
    let core = job.start(&[]);
    script(
        &job,
        "
try:
    with rm.connect('pipeline') as producer:
        producer.send({'number': np.arange(5), 'producer': ['p'] * 5})
        raise RuntimeError('of its own')
except RuntimeError:
    pass
with rm.connect('pipeline') as producer:
    producer.send({'number': np.arange(5, 9), 'producer': ['p'] * 4})
",
    );
    job.wait(core).report();
    assert_eq!(check_prefixes(&job.rows("out.ndjson")), BTreeMap::from([("p".to_owned(), 9)]));
}

#[test]
fn a_forked_child_that_drops_its_copy_keeps_its_own_memory() {
    let job = Job::new(&pipeline("end = \"closed\"\n"), "");
    let core = job.start(&[]);
    script(
        &job,
        "
import gc, os
producer = rm.connect('pipeline')
producer.send({'number': np.arange(5), 'producer': ['p'] * 5})
child = os.fork()
if child == 0:
    # Some of it comes to lie where the rings were.
    own = [np.ones(size) for size in [30_000] * 400 + [200_000] * 20]
    del producer
    gc.collect()
    os._exit(3 if sum(one.sum() for one in own) == 16_000_000 else 4)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
producer.send({'number': np.arange(5, 7), 'producer': ['p'] * 2})
producer.close()
",
    );
    job.wait(core).report();
    assert_eq!(check_prefixes(&job.rows("out.ndjson")), BTreeMap::from([("p".to_owned(), 7)]));
}

#[test]
fn who_waits_for_the_rows_of_an_earlier_producer_costs_nothing_whatever_checkpoints_say_meanwhile() {
    let keys = "replayable = true\nrate = 20\nbatch_rows = 16\n";
    let job = Job::new(&[&pipeline(keys), CHECKPOINT].concat(), "");
    let mut core = job.command(&[]).stderr(File::create(job.path("log")).unwrap()).spawn().unwrap();
    // The rows last for ten seconds.
    script(
        &job,
        "
import os
producer = rm.connect('pipeline')
producer.send({'number': np.arange(200), 'producer': ['p'] * 200})
os._exit(0)
",
    );
    let threads = std::fs::read_dir(format!("/proc/{}/task", core.id())).unwrap();
    let listener = threads.map(|thread| thread.unwrap().path()).find(|thread| {
        std::fs::read_to_string(thread.join("comm")).is_ok_and(|name| name.starts_with("ringmill-produc"))
    });
    let listener = listener.expect("somebody listens");
    let ticks = || {
        let figures = std::fs::read_to_string(listener.join("stat")).unwrap();
        let times = figures.rsplit(')').next().unwrap().split_whitespace().skip(11).take(2);
        times.map(|time| time.parse::<u64>().unwrap()).sum::<u64>()
    };
    job.write("second.py", "import ringmill as rm\nrm.connect('pipeline', connect_timeout=60).close()\n");
    let mut second = [start(&job, "second.py", &[], "said")];
    let (state, before, mut checkpoints, mut newest) = (job.path("state"), ticks(), 0, 0);
    until(&mut core, || {
        check_running(&job, &mut second, "said");
        let known = newest_checkpoint(&state);
        checkpoints += u64::from(known > std::mem::replace(&mut newest, known));
        checkpoints == 60
    });
    let used = ticks() - before;
    assert!(used < 20, "the listening thread has used {used} hundredths of a second while there was nothing to do");
    assert_eq!(job.end(core).code, Some(0), "{}", job.read("log"));
    kill_now(second[0].id() as i32);
    second[0].wait().unwrap();
}

#[test]
fn who_has_closed_is_remembered_when_the_core_is_killed_as_long_as_others_have_not() {
    let keys = "producers = [\"a\", \"b\"]\nreplayable = true\nend = \"closed\"\n";
    let job = Job::new(&[&pipeline(keys), CHECKPOINT].concat(), "");
    let core = job.start(&[]);
    script(
        &job,
        "
with rm.connect('pipeline', producer='a') as a:
    a.send({'number': np.arange(20), 'producer': ['a'] * 20})
b = rm.connect('pipeline', producer='b')
for first in (0, 20):
    # The second time a checkpoint is awaited that was begun behind the closing.
    b.send({'number': np.arange(first, first + 20), 'producer': ['b'] * 20})
    b.flush(durable=True)
",
    );
    kill_now(core.id() as i32);
    job.wait(core);
    let core = job.start(&[]);
    let said = script(
        &job,
        "
with rm.connect('pipeline', producer='b') as b:
    assert b.position == 40
    try:
        rm.connect('pipeline', producer='a', connect_timeout=1.0)
    except TimeoutError as error:
        print(error)
",
    );
    assert!(said.contains("the pipeline takes no more rows from this producer"), "{said}");
    job.wait(core).report();
    let counts = BTreeMap::from([("a", 20), ("b", 40)].map(|(name, count)| (name.to_owned(), count)));
    assert_eq!(check_prefixes(&job.rows("out.ndjson")), counts);
    // All have closed: the next run is for more of all.
    let core = job.start(&[]);
    script(
        &job,
        "
for name, at in (('a', 20), ('b', 40)):
    with rm.connect('pipeline', producer=name) as producer:
        assert producer.position == at
        producer.send({'number': np.array([at]), 'producer': [name]})
",
    );
    job.wait(core).report();
    let counts = BTreeMap::from([("a", 21), ("b", 41)].map(|(name, count)| (name.to_owned(), count)));
    assert_eq!(check_prefixes(&job.rows("out.ndjson")), counts);
}

#[test]
fn an_interrupted_send_says_how_much_went_and_goes_on_from_there() {
    let job =
        Job::new(&pipeline("batch_rows = 10\nslots = 2\nrate = 2_000\nend = \"closed\"\nreplayable = true\n"), "");
    let core = job.start(&[]);
    script(
        &job,
        "
import signal
def rows(first, end):
    return {'number': np.arange(first, end), 'producer': ['p'] * (end - first)}

with rm.connect('pipeline') as producer:
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        producer.send(rows(0, 2_000), position='end')
        raise AssertionError('2,000 rows take a second')
    except KeyboardInterrupt as interrupt:
        sent = interrupt.sent
    assert 0 < sent < 2_000 and producer.position is None
    producer.send(rows(sent, 2_000), position='end')
",
    );
    job.wait(core).report();
    assert_eq!(check_prefixes(&job.rows("out.ndjson")), BTreeMap::from([("p".to_owned(), 2_000)]));
}
