"""The city's sensors: what each of them reports, and when, and a publisher that sends it to Kafka as Avro.

A reading is a pure function of the city's seed, the device and the number of the report, so a check knows what it was
without having seen it.
"""

import io
import json
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from confluent_kafka import Producer
from fastavro import parse_schema, schemaless_writer

HISTORY = 3
"""Windows that a device needs behind it before pipeline.toml lets an alert pass."""
TOPIC = "readings"

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class City:
    """Sensors that report in turn, each so many times in a window."""

    sensors: int
    window: float
    """Seconds."""
    reports: int
    """Of each sensor in each window."""
    anomaly_rate: float
    """How likely a sensor's last report in a window is far too hot; after that it is repaired, and stays so."""
    seed: int = 0

    @property
    def seconds_per_report(self) -> float:
        """From one report of a sensor to its next."""
        return self.window / self.reports

    @property
    def readings_per_second(self) -> float:
        """Of all sensors."""
        return self.sensors / self.seconds_per_report

    def is_unusual(self, window: int) -> npt.NDArray[np.bool_]:
        """Which sensors have their anomaly in this window: (sensors,)."""
        nth = np.random.default_rng([self.seed, 1]).geometric(self.anomaly_rate, self.sensors)
        return np.equal(nth, window - HISTORY + 1)

    def celsius(self, report: int) -> Floats:
        """What each sensor reports the so-manieth time: (sensors,), in hundredths of a degree."""
        noise = np.random.default_rng([self.seed, 0, report]).normal(0.0, 0.5, self.sensors)
        usual = 20.0 + 5.0 * np.sin(np.arange(self.sensors))
        window, in_window = divmod(report, self.reports)
        hot = 40.0 * self.is_unusual(window) if in_window == self.reports - 1 else 0.0
        return np.asarray(np.round(usual + noise + hot, 2), np.float64)

    def readings(self, window: int) -> Floats:
        """What each sensor reports in this window: (reports, sensors)."""
        first = window * self.reports
        return np.stack([self.celsius(report) for report in range(first, first + self.reports)])


@lru_cache
def schema(record: str) -> Any:
    """The schema of messages, from its file."""
    return parse_schema(json.loads((Path(__file__).parent / f"{record}.avsc").read_text(encoding="utf-8")))


def name(sensor: int) -> str:
    """How a sensor calls itself."""
    return f"sensor-{sensor:06}"


def publish(city: City, brokers: str, start: float, reports: float) -> float:
    """Sends what the sensors report from `start` (seconds since 1970) on, so many times, each when it is due.

    Returns how late the latest one was, in seconds.
    """
    producer = Producer({"bootstrap.servers": brokers, "linger.ms": 5, "queue.buffering.max.messages": 1_000_000})
    names = [name(sensor) for sensor in range(city.sensors)]
    keys = [each.encode() for each in names]
    latest = 0.0
    for report in range(int(np.ceil(reports))):
        begin = start + report * city.seconds_per_report
        celsius = city.celsius(report).tolist()
        last = round(city.sensors * min(1.0, reports - report))
        sensor = 0
        while sensor < last:
            late = time.time() - (begin + sensor / city.sensors * city.seconds_per_report)
            if late < 0:
                producer.poll(-late)
                continue
            latest = max(latest, late)
            due = min(last, sensor + 1 + int(late / city.seconds_per_report * city.sensors), sensor + 5_000)
            for each in range(sensor, due):
                at = int(1000 * (begin + each / city.sensors * city.seconds_per_report))
                datum = io.BytesIO()
                schemaless_writer(datum, schema("reading"), {"device_id": names[each], "at": at, "celsius": celsius[each]})
                producer.produce(TOPIC, datum.getvalue(), keys[each])
            sensor = due
            producer.poll(0.005)
    if producer.flush(30):
        raise RuntimeError("the brokers do not take what the sensors report")
    return latest
