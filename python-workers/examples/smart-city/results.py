"""What came to the topic of results, held against what the sensors did report."""

import io
import time
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from fastavro import schemaless_reader
from sensors import City, schema

TOPIC = "aggregates"


@dataclass
class Results:
    """Counts and checks the results of all windows as they come."""

    city: City
    start: float
    """Seconds since 1970 at which the first window begins."""
    windows: int
    wrong: int = 0
    """Results that are not what the readings make."""
    seen: npt.NDArray[np.uint8] = field(init=False)
    """How often each came: (windows, sensors)."""
    _expected: dict[int, tuple[list[float], list[float]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.seen = np.zeros((self.windows, self.city.sensors), np.uint8)

    @property
    def found(self) -> int:
        """How many have come, each counted once."""
        return int((self.seen > 0).sum())

    @property
    def missing(self) -> int:
        """How many have not come."""
        return self.seen.size - self.found

    @property
    def repeated(self) -> int:
        """How many have come again: the topic has them at least once."""
        return int(self.seen.sum()) - self.found

    def take(self, message: bytes) -> None:
        """One result, as Avro."""
        row: Any = schemaless_reader(io.BytesIO(message), schema("result"), None)
        since = row["window_start"].timestamp() - self.start
        window, sensor = round(since / self.city.window), int(row["device_id"].removeprefix("sensor-"))
        average, peak = self._of(window)
        is_right = abs(row["average"] - average[sensor]) < 1e-9 and row["peak"] == peak[sensor]
        if not (is_right and row["readings"] == self.city.reports and window < self.windows):
            self.wrong += 1
        elif self.seen[window, sensor] < 255:
            self.seen[window, sensor] += 1

    def _of(self, window: int) -> tuple[list[float], list[float]]:
        """Average and peak of each sensor in a window."""
        if window not in self._expected:
            readings = self.city.readings(window)
            self._expected[window] = readings.mean(0).tolist(), readings.max(0).tolist()
        return self._expected[window]

    def read(self, brokers: str, partitions: int, deadline: float) -> Self:
        """Takes what comes to the topic, until nothing is missing or it is too late (seconds since 1970)."""
        consumer = Consumer({"bootstrap.servers": brokers, "group.id": "demo", "enable.auto.commit": False})
        consumer.assign([TopicPartition(TOPIC, partition, OFFSET_BEGINNING) for partition in range(partitions)])
        while self.missing and time.time() < deadline:
            for message in consumer.consume(10_000, 0.2):
                if value := message.value():
                    self.take(value)
        consumer.close()
        return self

    def verdict(self) -> str:
        """What is to be said of them."""
        return (
            f"results: {self.found:,} of {self.seen.size:,} windows, {self.missing:,} missing, {self.wrong:,} wrong, "
            f"{self.repeated:,} came again (the topic is at least once)"
        )
