"""What a peer's program is told, the functions that it runs, and what it says in the end. Needs NumPy alone."""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

BATCH_ROWS = 1024
MEAN, DEVIATION = 20.0, 2.5
START_MS = 1_704_067_200_000
WEIGHTS: "Floats" = (np.arange(BATCH_ROWS) + 1) / BATCH_ROWS
HEAVY_NS = 1_000_000

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Job:
    """The command line."""

    name: str
    """J1, J2, J3, J4, kafka or latency."""
    variant: str
    rows: int
    workers: int
    input: Path
    output: Path
    brokers: str
    """Of Kafka: `host:port,…`."""
    topic: str


def told() -> Job:
    """From the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--job", required=True)
    parser.add_argument("--variant", default="")
    parser.add_argument("--rows", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--input", type=Path, default=Path("/dev/stdin"))
    parser.add_argument("--output", type=Path, default=Path("/dev/stdout"))
    parser.add_argument("--brokers", default="")
    parser.add_argument("--topic", default="")
    options = parser.parse_args()
    return Job(
        options.job,
        options.variant,
        options.rows,
        options.workers,
        options.input,
        options.output,
        options.brokers,
        options.topic,
    )


def zscore(values: Floats) -> Floats:
    """J1."""
    result: Floats = (values - values.mean()) / values.std()
    return result


def heavy(values: Floats) -> Floats:
    """J3: the same and 1 ms of processor time."""
    until = time.thread_time_ns() + HEAVY_NS
    result = zscore(values)
    while time.thread_time_ns() < until:
        pass
    return result


FUNCTIONS = {"J1": zscore, "J3": heavy}


def score(average: Floats) -> Floats:
    """J2 and J4."""
    return (average - MEAN) / DEVIATION


def batches(values: Floats, rows: int) -> Any:
    """Arrays of 1,024 values, `rows` values in all, going round and round; nothing is copied."""
    parts = list(values.reshape(-1, BATCH_ROWS))
    for number in range(rows // BATCH_ROWS):
        yield parts[number % len(parts)]


def report(job: Job, **figures: Any) -> None:
    """What the program says in the end: at least `rows` and `digest` for J1 and J3."""
    job.output.write_text(json.dumps(figures), encoding="utf-8")
