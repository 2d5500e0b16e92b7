"""Brokers in a process of their own, so that what they take is known apart: those that librdkafka is tested with.

Says `host:port,…` first; then for each line `TOPIC PARTITIONS FILE` of its input it makes the topic, writes the file's lines into
it, the lines of a device into one partition, and says how many there are. It ends with its input.
"""

import re
import sys
from pathlib import Path

from brokers import Brokers  # type: ignore[import-not-found]  # of the example `smart-city`, as the harness sets the path
from confluent_kafka import Consumer, Producer, TopicPartition

DEVICE = re.compile(rb"sensor-(\d+)")
BATCH_BYTES = 262_144
"""Of a partition's messages, which come and go as one. For each, these brokers go through all that the partition has, one by one:
with batches of 64 KB that took more than half of their time."""
LINGER_MS = 10_000
"""For so long a batch may wait until it is full."""
TIMEOUT_S = 30.0


def load(addresses: str, topic: str, partitions: int, path: Path) -> int:
    """The lines of a file as messages.

    Raises:
        RuntimeError: the brokers did not take a line, or forgot one.
    """
    settings = {
        "bootstrap.servers": addresses,
        "linger.ms": LINGER_MS,
        "batch.size": BATCH_BYTES,
        "queue.buffering.max.messages": 0,
    }
    producer = Producer(settings)
    lines = 0
    with path.open("rb") as file:
        for line in file:
            device = DEVICE.search(line)
            if device is None:
                raise RuntimeError(f"no device in {line[:80]!r}")
            producer.produce(topic, line[:-1], device[0], partition=int(device[1]) % partitions)
            producer.poll(0)
            lines += 1
    if producer.flush(TIMEOUT_S):
        raise RuntimeError("the brokers do not take all of it")
    consumer = Consumer({"bootstrap.servers": addresses, "group.id": "loader"})
    kept = 0
    for partition in range(partitions):
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), TIMEOUT_S)
        kept += high - low
    consumer.close()
    if kept != lines:
        raise RuntimeError(f"the brokers keep {kept} of {lines} messages: more partitions hold more")
    return lines


def main() -> None:
    """Serves until its input ends."""
    # Brokers make a topic of four partitions of what they are asked for; these are made with as many as are wanted.
    with Brokers({}, brokers=2) as brokers:
        print(brokers.addresses, flush=True)
        for line in sys.stdin:
            topic, partitions, path = line.rstrip("\n").split(" ", 2)
            brokers.create(topic, int(partitions))
            print(load(brokers.addresses, topic, int(partitions), Path(path)), flush=True)


if __name__ == "__main__":
    main()
