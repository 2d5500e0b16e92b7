//! A Kafka broker for tests that ends transactions: that of the `krafka` crate, behind a relay.
//!
//! It has a coordinator of transactions, writes the marks that end them into its logs, shows only what is committed to those
//! who ask for that, and shows offsets of groups when the transaction is committed that they came in. It keeps nothing on a
//! disk, ends no transaction for its age unless it is told to, and is not Apache Kafka.
//!
//! It prints its address, obeys commands from its standard input, each with an answer, and ends with it. See [`obey`].

mod relay;

use std::error::Error;
use std::io::{BufRead, Write, stdin, stdout};
use std::sync::atomic::{AtomicU64, Ordering};

use krafka::testing::{ApiKey, Control, FakeBroker};
use tokio::net::TcpListener;

/// Requests that were answered otherwise than usual.
static OTHERWISE: AtomicU64 = AtomicU64::new(0);

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), Box<dyn Error>> {
    let broker = FakeBroker::start().await?;
    let behind = broker.broker_addr(0).ok_or("it does not listen")?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(relay::run(listener, behind));
    broker.with_state(|state| state.brokers[0].port = address.port().into());
    // What librdkafka has in common with it: the relay sees to the former, and the latter differ in their errors only.
    broker.set_api_versions(ApiKey::EndTxn, 0, 1);
    broker.set_api_versions(ApiKey::TxnOffsetCommit, 3, 5);
    answer(&address.to_string())?;
    for line in stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        answer(&obey(&broker, &words).unwrap_or_else(|| format!("what is {line:?}?")))?;
    }
    Ok(())
}

fn answer(text: &str) -> std::io::Result<()> {
    let mut out = stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// Does what a line says; the answer, or `None` if it is not understood.
fn obey(broker: &FakeBroker, words: &[&str]) -> Option<String> {
    let done = Some("done".to_owned());
    match *words {
        ["topic", name, partitions] => broker.create_topic(name, partitions.parse().ok()?).then_some("done".to_owned()),
        // The next `times` requests of a kind are answered so.
        ["answer", kind, how, times] => {
            let control = control(how)?;
            broker.on_times(api(kind)?, times.parse().ok()?, move |_| {
                OTHERWISE.fetch_add(1, Ordering::SeqCst);
                control.clone()
            });
            done
        }
        // … all are answered as usual again.
        ["usual"] => {
            broker.clear_hooks();
            done
        }
        // How many were answered otherwise than usual.
        ["otherwise"] => Some(OTHERWISE.load(Ordering::SeqCst).to_string()),
        // The offset that a group has committed, or `none`.
        ["offset", group, topic, partition] => {
            let offset = broker.committed_offset(group, topic, partition.parse().ok()?);
            Some(offset.map_or("none".to_owned(), |offset| offset.to_string()))
        }
        // Neither a name of transactions nor a group's offsets are kept any longer.
        ["forget", id, group] => {
            broker.with_state(|state| {
                state.transactions.remove(id);
                state.groups.get_mut(group).map(|group| group.offsets.clear())
            });
            done
        }
        // An open transaction is ended for its age, if there is one.
        ["expire", id] => Some(broker.abort_transaction(id).to_string()),
        // All connections break, and nobody is let in …
        ["away"] => {
            broker.crash(0);
            done
        }
        // … until now.
        ["back"] => {
            broker.restart(0);
            done
        }
        _ => None,
    }
}

fn api(kind: &str) -> Option<ApiKey> {
    Some(match kind {
        "Produce" => ApiKey::Produce,
        "AddPartitionsToTxn" => ApiKey::AddPartitionsToTxn,
        "AddOffsetsToTxn" => ApiKey::AddOffsetsToTxn,
        "TxnOffsetCommit" => ApiKey::TxnOffsetCommit,
        "EndTxn" => ApiKey::EndTxn,
        "InitProducerId" => ApiKey::InitProducerId,
        _ => return None,
    })
}

fn control(how: &str) -> Option<Control> {
    let applied = |then| Some(Control::ApplyThen(Box::new(then)));
    match how {
        // It never came.
        "lost" => Some(Control::Disconnect),
        // It came, and the answer was lost …
        "unheard" => applied(Control::Disconnect),
        // … or is yet to come.
        "silent" => applied(Control::Silence),
        _ => None,
    }
}
