//! iceoryx2: one service there, one back, slices of words written in place; events wake who sleeps.
//!
//! Its own benchmark is the model: one publisher and one subscriber, no overflow, no history.

use crate::{Client, Outcome, Plan, Server, payload};
use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::*;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

/// Messages on the way; more made it no faster.
const BUFFER: usize = 256;
/// Messages for which a sleeper is woken once, while more of them come.
const NOTIFY_EVERY: u64 = 16;

struct Ends {
    publisher: Publisher<ipc::Service, [u64], ()>,
    subscriber: Subscriber<ipc::Service, [u64], ()>,
    wake: Option<(Notifier<ipc::Service>, Listener<ipc::Service>)>,
    words: usize,
    _node: Node<ipc::Service>,
}

pub fn connect(plan: &Plan) -> Outcome<(Box<dyn Client>, Child)> {
    let name = format!("peers-ring-{}", std::process::id());
    let ends = Ends::new(plan, &name, ["there", "back"])?;
    let mut child = plan.child(&[name])?.stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().ok_or("the child has an output")?).read_line(&mut line)?;
    if line.trim() != "ready" {
        return Err("the other process did not get ready".into());
    }
    Ok((Box::new(ends), child))
}

pub fn serve(plan: &Plan, more: &[String]) -> Outcome<Box<dyn Server>> {
    let ends = Ends::new(plan, &more[0], ["back", "there"])?;
    println!("ready");
    Ok(Box::new(ends))
}

impl Ends {
    fn new(plan: &Plan, name: &str, [out, back]: [&str; 2]) -> Outcome<Ends> {
        set_log_level(LogLevel::Error);
        let node = NodeBuilder::new().create::<ipc::Service>()?;
        let messages = |way: &str| -> Outcome<_> {
            let service = node.service_builder(&format!("{name}-{way}").as_str().try_into()?);
            let service = service.publish_subscribe::<[u64]>().max_publishers(1).max_subscribers(1).max_nodes(2);
            let service = service.history_size(0).subscriber_max_buffer_size(BUFFER).enable_safe_overflow(false);
            Ok(service.open_or_create()?)
        };
        let publisher = messages(out)?
            .publisher_builder()
            .initial_max_slice_len(plan.bytes / 8)
            .backpressure_strategy(BackpressureStrategy::RetryUntilDelivered)
            .create()?;
        let subscriber = messages(back)?.subscriber_builder().create()?;
        let event = |way: &str| -> Outcome<_> {
            let service = node.service_builder(&format!("{name}-{way}-event").as_str().try_into()?);
            Ok(service.event().open_or_create()?)
        };
        let wake = if plan.spin {
            None
        } else {
            Some((event(out)?.notifier_builder().create()?, event(back)?.listener_builder().create()?))
        };
        Ok(Ends { publisher, subscriber, wake, words: plan.bytes / 8, _node: node })
    }

    fn send(&mut self, number: u64, notify: bool) -> Outcome<()> {
        let sample = self.publisher.loan_slice_uninit(self.words)?;
        sample.write_from_fn(|index| number + index as u64).send()?;
        if let Some((notifier, _)) = &self.wake
            && notify
        {
            notifier.notify()?;
        }
        Ok(())
    }

    fn get(&mut self) -> Outcome<u64> {
        loop {
            if let Some(sample) = self.subscriber.receive()? {
                return Ok(payload::read(sample.payload()));
            }
            match &mut self.wake {
                Some((_, listener)) => {
                    listener.blocking_wait(|_| {})?;
                }
                None => std::hint::spin_loop(),
            }
        }
    }
}

impl Client for Ends {
    fn round_trip(&mut self, number: u64) -> Outcome<()> {
        self.send(number, true)?;
        self.get()?;
        Ok(())
    }

    fn stream(&mut self, count: u64) -> Outcome<()> {
        for number in 0..count {
            self.send(number, number % NOTIFY_EVERY == NOTIFY_EVERY - 1 || number + 1 == count)?;
        }
        self.get()?; // that all were read
        Ok(())
    }
}

impl Server for Ends {
    fn answer(&mut self, count: u64) -> Outcome<()> {
        for number in 0..count {
            self.get()?;
            self.send(number, true)?;
        }
        // A publisher that ends takes its messages along: the last one has to be read first.
        std::thread::sleep(std::time::Duration::from_millis(100));
        Ok(())
    }

    fn receive(&mut self, count: u64) -> Outcome<()> {
        for _ in 0..count {
            self.get()?;
        }
        self.send(count, true)?;
        std::thread::sleep(std::time::Duration::from_millis(100));
        Ok(())
    }
}
