"""Bytewax.

J1, J3  rows: Python floats, `map`. batched: `flat_map_batch` over lists of 1,024 floats. arrays: each item is an array.
J2      rows: `map` and `fold_window`, one item a line. batched: parsing and scores by `flat_map_batch`, which its
        documentation names as the way to go faster. arrays: each batch of lines is summed by key and window by hand
        first, and only the sums go into the window.
J4      like J2, batched and arrays, parsed with orjson.
latency the batched form of J2, from standard input to standard output.

The clock of J2 and J4 is that of the events alone (`now_getter` stands still): a replayed file has no other time.
"""

import multiprocessing as mp
import os
import select
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bytewax.operators as op  # type: ignore[import-not-found]  # of this peer's environment, as the next ones
import bytewax.operators.windowing as win  # type: ignore[import-not-found]
import numpy as np
from bytewax.connectors.files import FileSource  # type: ignore[import-not-found]
from bytewax.dataflow import Dataflow  # type: ignore[import-not-found]
from bytewax.inputs import DynamicSource, StatelessSourcePartition  # type: ignore[import-not-found]
from bytewax.outputs import DynamicSink, StatelessSinkPartition  # type: ignore[import-not-found]
from bytewax.testing import cluster_main, run_main  # type: ignore[import-not-found]

from peers.engines.job import BATCH_ROWS, FUNCTIONS, MEAN, START_MS, WEIGHTS, Floats, Job, batches, report, score, told

LINES = 10_000
"""In a batch of a file's; 1,000 (the default) is slower."""
START = datetime.fromtimestamp(START_MS / 1000, UTC)
WAIT = timedelta(milliseconds=500)
"""Of the live clock: with less, rows that come in order are late for it when the machine is busy, and are dropped."""
Reading = tuple[str, tuple[datetime, float, float, int]]
"""Device; time, sums of temperature and humidity, count."""


class ArrayPart(StatelessSourcePartition):  # type: ignore[misc]
    """Every so-manieth batch of 1,024 values, as an array or as floats."""

    def __init__(self, parts: Iterator[Floats], floats: bool) -> None:
        self.parts = parts
        self.floats = floats

    def next_batch(self) -> list[Any]:
        try:
            part = next(self.parts)
        except StopIteration:
            raise StopIteration from None
        return part.tolist() if self.floats else [part]


class ArraySource(DynamicSource):  # type: ignore[misc]
    """The values in memory."""

    def __init__(self, job: Job, values: Floats) -> None:
        self.job, self.values = job, values

    def build(self, step_id: str, worker_index: int, worker_count: int) -> ArrayPart:  # noqa: ARG002
        every = batches(self.values, self.job.rows)
        mine = (batch for number, batch in enumerate(every) if number % worker_count == worker_index)
        return ArrayPart(mine, self.job.variant != "arrays")


class DigestSink(DynamicSink, StatelessSinkPartition):  # type: ignore[misc]
    """Sums up what comes; one in each process."""

    def __init__(self, variant: str) -> None:
        self.variant = variant
        self.rows, self.digest = 0, 0.0

    def build(self, step_id: str, worker_index: int, worker_count: int) -> "DigestSink":  # noqa: ARG002
        return self

    def write_batch(self, items: list[Any]) -> None:
        if self.variant == "arrays":
            for scores in items:
                self.digest += float(scores @ WEIGHTS)
                self.rows += len(scores)
            return
        scores = np.array(items)
        if len(scores) == BATCH_ROWS and self.rows % BATCH_ROWS == 0:
            weights = WEIGHTS
        else:
            weights = (np.arange(self.rows, self.rows + len(scores)) % BATCH_ROWS + 1) / BATCH_ROWS
        self.digest += float(scores @ weights)
        self.rows += len(scores)


def stateless(job: Job, values: Floats, sink: DigestSink) -> Dataflow:
    """J1 and J3."""
    function = FUNCTIONS[job.name]
    flow = Dataflow("stateless")
    stream = op.input("values", flow, ArraySource(job, values))
    match job.variant:
        case "rows":
            scores = op.map("score", stream, lambda value: (value - MEAN) / 2.5)
        case "batched":
            scores = op.flat_map_batch("score", stream, lambda floats: function(np.array(floats)).tolist())
        case _:
            scores = op.map("score", stream, function)
    op.output("digest", scores, sink)
    return flow


def process(job: Job, addresses: list[str], number: int, results: Any) -> None:
    """One of the processes of a cluster."""
    sink = DigestSink(job.variant)
    cluster_main(stateless(job, np.load(job.input), sink), addresses, number)
    results.put((sink.rows, sink.digest))


def run_stateless(job: Job) -> None:
    """In this process, or in as many as there are workers: threads would share the interpreter's lock."""
    if job.workers == 1:
        sink = DigestSink(job.variant)
        run_main(stateless(job, np.load(job.input), sink))
        report(job, rows=sink.rows, digest=sink.digest)
        return
    results: Any = mp.Queue()
    addresses = [f"localhost:{21_000 + os.getpid() % 5_000 + number}" for number in range(job.workers)]
    processes = [mp.Process(target=process, args=(job, addresses, number, results)) for number in range(job.workers)]
    for each in processes:
        each.start()
    figures = [results.get() for _ in processes]
    for each in processes:
        each.join()
    report(job, rows=sum(rows for rows, _ in figures), digest=sum(digest for _, digest in figures))


def csv_reading(line: str) -> Reading:
    """A line of a CSV file."""
    device, timestamp, temperature = line.split(",")
    return device, (datetime.fromtimestamp(int(timestamp) / 1000, UTC), float(temperature), 0.0, 1)


def json_reading(line: str) -> Reading:
    """A line of NDJSON."""
    import orjson  # type: ignore[import-not-found]  # of this peer's environment

    event = orjson.loads(line)
    readings = event["readings"]
    time = datetime.fromtimestamp(event["timestamp"] / 1000, UTC)
    return event["device"]["id"], (time, readings["temperature"], readings["humidity"], 1)


def presummed(parse: Callable[[str], Reading]) -> Callable[[list[str]], list[Reading]]:
    """Lines to sums by device and second."""

    def of_lines(lines: list[str]) -> list[Reading]:
        sums: dict[tuple[str, datetime], list[Any]] = {}
        for line in lines:
            device, (time, temperature, humidity, _) = parse(line)
            key = (device, time.replace(microsecond=0))
            of_key = sums.get(key)
            if of_key is None:
                sums[key] = [temperature, humidity, 1]
            else:
                of_key[0] += temperature
                of_key[1] += humidity
                of_key[2] += 1
        return [(device, (time, *of_key)) for (device, time), of_key in sums.items()]

    return of_lines


def add(sums: list[Any], reading: tuple[datetime, float, float, int]) -> list[Any]:
    """Folds a reading into a window."""
    sums[0] += reading[1]
    sums[1] += reading[2]
    sums[2] += reading[3]
    return sums


def merge(left: list[Any], right: list[Any]) -> list[Any]:
    """Two windows into one (tumbling windows never need it)."""
    return [a + b for a, b in zip(left, right, strict=True)]


def lines_of(results: list[tuple[str, tuple[int, list[Any]]]]) -> list[str]:
    """The function on the windows' results, for all that came at once; and their text."""
    sums = np.array([result[1][1] for result in results])
    averages = sums[:, 0] / sums[:, 2]
    scores = score(averages)
    return [
        f"{device},{START_MS + window * 1000},{average},{value}"
        for (device, (window, _)), average, value in zip(results, averages.tolist(), scores.tolist(), strict=True)
    ]


class LineSink(DynamicSink, StatelessSinkPartition):  # type: ignore[misc]
    """A file, or standard output. Bytewax's own FileSink syncs the disk at every batch, which nobody else does here."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("w", encoding="utf-8")

    def build(self, step_id: str, worker_index: int, worker_count: int) -> "LineSink":  # noqa: ARG002
        return self

    def write_batch(self, items: list[str]) -> None:
        self.file.write("\n".join(items) + "\n")
        self.file.flush()


class StdinPart(StatelessSourcePartition):  # type: ignore[misc]
    """Whole lines of standard input, as many as there are."""

    def __init__(self) -> None:
        self.rest = b""

    def next_batch(self) -> list[str]:
        if not select.select([0], [], [], 0)[0]:
            return []
        read = os.read(0, 1 << 16)
        if not read:
            raise StopIteration
        *lines, self.rest = (self.rest + read).split(b"\n")
        return [line.decode() for line in lines]


class StdinSource(DynamicSource):  # type: ignore[misc]
    """Standard input."""

    def build(self, step_id: str, worker_index: int, worker_count: int) -> StdinPart:  # noqa: ARG002
        return StdinPart()


def windows(job: Job) -> Dataflow:
    """J2, J4 and latency."""
    parse = json_reading if job.name == "J4" else csv_reading
    flow = Dataflow("windows")
    live = job.name == "latency"
    lines = op.input("lines", flow, StdinSource() if live else FileSource(job.input, batch_size=LINES))
    match job.variant:
        case "rows":
            readings = op.map("parse", lines, parse)
        case "batched":
            readings = op.flat_map_batch("parse", lines, lambda batch: [parse(line) for line in batch])
        case _:
            readings = op.flat_map_batch("parse", lines, presummed(parse))
    if live:
        clock = win.EventClock(ts_getter=lambda reading: reading[0], wait_for_system_duration=WAIT)
    else:
        clock = win.EventClock(
            ts_getter=lambda reading: reading[0],
            wait_for_system_duration=timedelta(0),
            now_getter=lambda: START,
            to_system_utc=lambda _: None,
        )
    windower = win.TumblingWindower(length=timedelta(seconds=1), align_to=START)
    averages = win.fold_window("averages", readings, clock, windower, lambda: [0.0, 0.0, 0], add, merge)
    if job.variant == "rows":
        text = op.map("score", averages.down, lambda result: lines_of([result])[0])
    else:
        text = op.flat_map_batch("score", averages.down, lines_of)
    op.output("results", text, LineSink(job.output))
    return flow


def main() -> None:
    """Runs what it is told."""
    job = told()
    if job.name in FUNCTIONS:
        run_stateless(job)
    else:
        run_main(windows(job))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
