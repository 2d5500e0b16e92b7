"""Pathway. Files are read in its static mode, its fastest: the whole file is one step of its time.

J1, J3  `pw.udf` over batches of 1,024 values, sums by its own reducers
J2, J4  `windowby` with a tumbling window, the averages by its own reducer, a batched `pw.udf` on them, CSV out
latency J2 from standard input, committed every 10 ms, to standard output
"""

import os
import sys
from typing import Any

import numpy as np
import pathway as pw  # type: ignore[import-not-found]  # of this peer's environment

from peers.engines.job import BATCH_ROWS, START_MS, Job, heavy, report, score, told


def value_schema() -> Any:
    """Of J1 and J3."""
    return pw.schema_from_types(number=int, value=float)


def reading_schema(job: Job) -> Any:
    """Of J2 and J4."""
    columns: dict[str, Any] = {"device": str, "timestamp": int, "temperature": float}
    if job.name == "J4":
        columns["humidity"] = float
    return pw.schema_from_types(**columns)


def scores(values: list[float]) -> list[float]:
    """Of a batch."""
    result: list[float] = score(np.array(values)).tolist()
    return result


def heavy_scores(values: list[float]) -> list[float]:
    """The same and 1 ms of processor time for every 1,024 rows."""
    array = np.array(values)
    heavy(array)
    result: list[float] = score(array).tolist()
    return result


def batched(function: Any) -> Any:
    """A UDF that gets lists."""
    return pw.udf(function, return_type=float, deterministic=True, max_batch_size=BATCH_ROWS)


def stateless(job: Job) -> None:
    """J1 and J3."""
    values = pw.io.csv.read(str(job.input), schema=value_schema(), mode="static")
    function = batched(heavy_scores if job.name == "J3" else scores)
    scored = values.select(place=pw.this.number % BATCH_ROWS + 1, score=function(pw.this.value))
    sums = scored.reduce(rows=pw.reducers.count(), digest=pw.reducers.sum(pw.this.score * pw.this.place))
    last: dict[str, Any] = {"rows": 0, "digest": 0.0}

    def seen(key: Any, row: dict[str, Any], time: int, is_addition: bool) -> None:  # noqa: ARG001
        if is_addition:
            last.update(row)

    pw.io.subscribe(sums, on_change=seen)
    run()
    report(job, rows=last["rows"], digest=last["digest"] / BATCH_ROWS)


def averages(readings: Any, behavior: Any = None) -> Any:
    """Windows and the function on their results."""
    windows = readings.windowby(
        readings.timestamp,
        window=pw.temporal.tumbling(duration=1000, origin=START_MS),
        instance=readings.device,
        behavior=behavior,
    )
    results = windows.reduce(
        device=pw.this._pw_instance, window=pw.this._pw_window_start, average=pw.reducers.avg(pw.this.temperature)
    )
    return results.select(pw.this.device, pw.this.window, pw.this.average, score=batched(scores)(pw.this.average))


def windows(job: Job) -> None:
    """J2 and J4."""
    schema = reading_schema(job)
    if job.name == "J4":
        paths = {
            "device": "/device/id",
            "timestamp": "/timestamp",
            "temperature": "/readings/temperature",
            "humidity": "/readings/humidity",
        }
        readings = pw.io.jsonlines.read(str(job.input), schema=schema, mode="static", json_field_paths=paths)
    else:
        readings = pw.io.csv.read(str(job.input), schema=schema, mode="static")
    pw.io.csv.write(averages(readings), str(job.output))
    run()


class Lines(pw.io.python.ConnectorSubject):  # type: ignore[misc]
    """Standard input."""

    def run(self) -> None:
        for line in sys.stdin:
            device, timestamp, temperature = line.rstrip().split(",")
            self.next(device=device, timestamp=int(timestamp), temperature=float(temperature))


def latency(job: Job) -> None:
    """Windows are shown once, when they close."""
    readings = pw.io.python.read(Lines(), schema=reading_schema(job), autocommit_duration_ms=10)
    results = averages(readings, pw.temporal.exactly_once_behavior())

    def seen(key: Any, row: dict[str, Any], time: int, is_addition: bool) -> None:  # noqa: ARG001
        if is_addition:
            sys.stdout.write(f"{row['device']},{row['window']},{row['average']},{row['score']}\n")

    pw.io.subscribe(results, on_change=seen, on_time_end=lambda _: sys.stdout.flush())
    run()


def run() -> None:
    """Without its dashboard."""
    pw.run(monitoring_level=pw.MonitoringLevel.NONE, max_expression_batch_size=BATCH_ROWS)


def main() -> None:
    """Runs what it is told."""
    os.environ.setdefault("PATHWAY_THREADS", "1")
    job = told()
    if job.name in ("J1", "J3"):
        stateless(job)
    elif job.name == "latency":
        latency(job)
    else:
        windows(job)


if __name__ == "__main__":
    main()
