"""The one input of all engines, made from a seed: what a file holds depends on its kind alone, a shorter one is a prefix.

Rows come in chunks with a seed each, so a file of any length can be written, and the oracle can make the same rows again
without reading it. Timestamps are whole milliseconds since 1970 and never go back.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SEED = 20_240_101
START_MS = 1_704_067_200_000
CHUNK_ROWS = 1 << 18
MEAN, DEVIATION = 20.0, 2.5
"""Of the temperatures."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Stream:
    """A kind of input: so many devices, and so many rows in each second of event time."""

    name: str
    keys: int
    rows_per_second: int


J2 = Stream("j2-1000", 1000, 10_000)
J2_MANY = Stream("j2-500000", 500_000, 250_000)
J4 = Stream("j4", 1000, 10_000)
STREAMS = {stream.name: stream for stream in (J2, J2_MANY, J4)}


@dataclass(frozen=True)
class Readings:
    """Rows of a stream, in order."""

    device: Integers
    """0 … keys - 1."""
    timestamp: Integers
    temperature: Floats
    """Whole hundredths, as text has them."""
    humidity: Floats

    def __len__(self) -> int:
        return len(self.device)


def readings(stream: Stream, rows: int) -> Iterator[Readings]:
    """The first `rows` rows."""
    for first in range(0, rows, CHUNK_ROWS):
        random = np.random.default_rng([SEED, stream.keys, first])
        count = min(CHUNK_ROWS, rows - first)
        # All of the chunk is drawn, so that a prefix is one.
        device = random.integers(0, stream.keys, CHUNK_ROWS)[:count]
        temperature = np.rint(random.normal(MEAN, DEVIATION, CHUNK_ROWS)[:count] * 100) / 100
        humidity = np.rint(random.uniform(20, 80, CHUNK_ROWS)[:count] * 100) / 100
        index = np.arange(first, first + count, dtype=np.int64)
        yield Readings(device, START_MS + index * 1000 // stream.rows_per_second, temperature, humidity)


def values(rows: int) -> Floats:
    """What the jobs without keys work on (J1, J3)."""
    random = np.random.default_rng([SEED, 1])
    return np.rint(random.normal(MEAN, DEVIATION, rows) * 1e6) / 1e6


def device_name(device: int) -> str:
    """As it stands in files."""
    return f"sensor-{device:06}"


def write_csv(path: Path, stream: Stream, rows: int, *, header: bool = True) -> None:
    """`device,timestamp,temperature` lines."""
    names = np.array([device_name(device) for device in range(stream.keys)])
    with path.open("w", encoding="utf-8") as file:
        if header:
            file.write("device,timestamp,temperature\n")
        for chunk in readings(stream, rows):
            columns = zip(names[chunk.device].tolist(), chunk.timestamp.tolist(), chunk.temperature.tolist(), strict=True)
            file.writelines(f"{device},{timestamp},{temperature}\n" for device, timestamp, temperature in columns)


FILLER = "Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor incididunt ut labore et dolore. "


def write_ndjson(path: Path, stream: Stream, rows: int) -> None:
    """Events of about 1.2 KB; four fields of them matter: /device/id, /timestamp, /readings/temperature, /readings/humidity."""
    sites = [
        f'"site":{{"name":"hall {site}","country":"NO","floor":{site % 7},"position":[{site}.5,{site}.25]}}' for site in range(50)
    ]
    with path.open("w", encoding="utf-8") as file:
        index = 0
        for chunk in readings(stream, rows):
            columns = (chunk.device.tolist(), chunk.timestamp.tolist(), chunk.temperature.tolist(), chunk.humidity.tolist())
            lines = []
            for device, timestamp, temperature, humidity in zip(*columns, strict=True):
                lines.append(event(index, device, timestamp, temperature, humidity, sites[device % 50]))
                index += 1
            file.writelines(lines)


def event(index: int, device: int, timestamp: int, temperature: float, humidity: float, site: str) -> str:
    """One line."""
    return (
        f'{{"id":"{index:016x}","schema":"telemetry/3","device":{{"id":"{device_name(device)}","model":"TX-{device % 17}",'
        f'"firmware":"4.{device % 9}.1","serial":"{device * 7919:012}","owner":{{"team":"plant","contact":"ops@example.com"}}}},'
        f'{site},"timestamp":{timestamp},"sequence":{index},"quality":{{"signal":-{40 + index % 50},"lost":{index % 3},'
        f'"flags":["calibrated","indoor","mains"]}},"readings":{{"temperature":{temperature},"humidity":{humidity},'
        f'"pressure":{1000 + device % 40}.25,"co2":{400 + index % 200},"voc":0.{index % 97:02},"noise":{30 + index % 40}.5,'
        f'"light":{index % 1000},"battery":3.{600 + device % 400}}},'
        f'"network":{{"gateway":"gw-{device % 64:03}","protocol":"lora",'
        f'"channel":{index % 8},"hops":[{index % 5},{index % 7},{index % 11}],"retries":0,"encrypted":true,"vlan":null}},'
        f'"message":"{FILLER * 4 + FILLER[:56]}",'
        f'"history":[{device % 10}.5,{device % 20}.25,{device % 30}.125,{index % 10}.5,{index % 20}.0],'
        f'"checksum":"{index * 2654435761 % (1 << 64):016x}"}}\n'
    )


def ensure(folder: Path, name: str, write: Any) -> Path:
    """The file, written by `write(path)` if it is not there yet."""
    path = folder / name
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(path.name + ".unfinished")
        write(unfinished)
        unfinished.rename(path)
    return path
