"""J4 from Kafka, with the clients of Python: one process that asks for messages in batches, parses, and keeps the windows.

aiokafka         `getmany`, json of the standard library
confluent-kafka  `consume`, orjson

A window is closed when every partition has gone past its end, and its averages get their score at once, as an array.
"""

import asyncio
import json
from collections.abc import Callable
from typing import Any, TextIO

import numpy as np

from peers.engines.job import Job, score, told

MESSAGES = 10_000
"""Asked for at once, at the most."""
WINDOW_MS = 1000
TIMEOUT_MS = 60_000


class Windows:
    """Sum and count of each device in each second of event time that is not closed yet."""

    def __init__(self, partitions: list[int], output: TextIO) -> None:
        self.latest = dict.fromkeys(partitions, 0)
        self.open: dict[int, dict[str, list[float]]] = {}
        self.output = output

    def add(self, partition: int, values: list[bytes], parse: Callable[[bytes], Any]) -> None:
        """Messages of a partition, in their order."""
        windows, latest = self.open, self.latest[partition]
        for value in values:
            event = parse(value)
            device, timestamp = event["device"]["id"], event["timestamp"]
            readings = event["readings"]
            temperature, _humidity = readings["temperature"], readings["humidity"]
            sums = windows.setdefault(timestamp // WINDOW_MS, {})
            entry = sums.get(device)
            if entry is None:
                sums[device] = [temperature, 1]
            else:
                entry[0] += temperature
                entry[1] += 1
            latest = max(latest, timestamp)
        self.latest[partition] = latest

    def close(self, before_ms: int) -> None:
        """Writes the windows that end before then."""
        for window in sorted(window for window in self.open if (window + 1) * WINDOW_MS <= before_ms):
            sums = self.open.pop(window)
            averages = np.array([total / count for total, count in sums.values()])
            rows = zip(sums, averages.tolist(), score(averages).tolist(), strict=True)
            self.output.writelines(f"{device},{window * WINDOW_MS},{average},{scored}\n" for device, average, scored in rows)

    def close_passed(self) -> None:
        """Those that every partition has gone past."""
        self.close(min(self.latest.values()))

    def end(self) -> None:
        """There are no more messages."""
        self.close(max(self.latest.values()) + WINDOW_MS)


async def aiokafka(job: Job, output: TextIO) -> None:
    """With json."""
    from aiokafka import AIOKafkaConsumer  # type: ignore[import-not-found]  # of this peer's environment

    consumer = AIOKafkaConsumer(
        job.topic, bootstrap_servers=job.brokers, auto_offset_reset="earliest", enable_auto_commit=False, group_id=None
    )
    await consumer.start()
    windows = Windows(sorted(consumer.partitions_for_topic(job.topic)), output)
    seen = 0
    while seen < job.rows:
        batches = await consumer.getmany(timeout_ms=TIMEOUT_MS, max_records=MESSAGES)
        if not batches:
            raise TimeoutError(f"no message after {seen}")
        for partition, records in batches.items():
            windows.add(partition.partition, [record.value for record in records], json.loads)
            seen += len(records)
        windows.close_passed()
    windows.end()
    await consumer.stop()


def confluent(job: Job, output: TextIO) -> None:
    """With orjson."""
    import orjson  # type: ignore[import-not-found]
    from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

    # Its default waits a whole second when it has read enough ahead, and does less than half as much.
    settings = {"group.id": "peers", "enable.auto.commit": False, "fetch.queue.backoff.ms": 10, "fetch.wait.max.ms": 20}
    consumer = Consumer({"bootstrap.servers": job.brokers, **settings})
    partitions = sorted(consumer.list_topics(job.topic, TIMEOUT_MS / 1000).topics[job.topic].partitions)
    consumer.assign([TopicPartition(job.topic, partition, OFFSET_BEGINNING) for partition in partitions])
    windows = Windows(partitions, output)
    seen = 0
    while seen < job.rows:
        # It waits until it has as many as it was asked for.
        messages = consumer.consume(min(MESSAGES, job.rows - seen), TIMEOUT_MS / 1000)
        if not messages:
            raise TimeoutError(f"no message after {seen}")
        batches: dict[Any, list[Any]] = {}
        for message in messages:
            if message.error():
                raise RuntimeError(str(message.error()))
            batches.setdefault(message.partition(), []).append(message.value())
        for partition, values in batches.items():
            windows.add(partition, values, orjson.loads)
        seen += len(messages)
        windows.close_passed()
    windows.end()
    consumer.close()


def main() -> None:
    """The client that was asked for."""
    job = told()
    with job.output.open("w", encoding="utf-8") as output:
        if job.variant == "json":
            asyncio.run(aiokafka(job, output))
        else:
            confluent(job, output)


if __name__ == "__main__":
    main()
