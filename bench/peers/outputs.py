"""Reads what an engine gave and compares it with the oracle; the sentences it returns are why a run does not count."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl

from . import data, oracle
from .cases import VALUES, Case

HEADERS = {
    "ringmill": ("device", "window_start", "average", "score"),
    "pathway": ("device", "window", "average", "score"),
}
"""Names of the columns of engines that write a header."""


@cache
def values() -> data.Floats:
    """Input of J1 and J3."""
    return data.values(VALUES)


@cache
def expected_windows(stream: data.Stream, rows: int) -> oracle.Windows:
    """Kept, since all runs of a case need it."""
    return oracle.windows(stream, rows)


def problems(case: Case, rows: int, output: Path) -> list[str]:
    """Empty when the output is right."""
    if not output.exists():
        return ["there is no output"]
    match case.check:
        case "windows":
            return oracle.differences(expected_windows(case.stream, rows), read_windows(case.engine, output))
        case "digest":
            said = json.loads(output.read_text(encoding="utf-8"))
            whole = rows // oracle.BATCH_ROWS * oracle.BATCH_ROWS
            return oracle.digest_differences(oracle.digest(values(), whole), said["digest"], whole, said["rows"])
        case "row_digest":
            said = json.loads(output.read_text(encoding="utf-8"))
            whole = rows // oracle.BATCH_ROWS * oracle.BATCH_ROWS
            return oracle.digest_differences(oracle.digest(values(), whole, oracle.score), said["digest"], whole, said["rows"])
        case _:
            return [f"there is no check called {case.check}"]


def read_windows(engine: str, output: Path) -> oracle.Windows:
    """A file or a folder of CSV."""
    files = (
        [output]
        if output.is_file()
        else sorted(path for path in output.rglob("*") if path.is_file() and path.name[0] not in "._")
    )
    if engine in HEADERS:
        device, window, average, score = HEADERS[engine]
        frames = [pl.read_csv(path).select(device, window, average, score) for path in files]
    else:
        frames = [pl.read_csv(path, has_header=False) for path in files]
    frame = pl.concat(frames)
    frame.columns = ["device", "window", "average", "score"]
    if frame["window"].dtype == pl.String:
        times = frame["window"].str.to_datetime("%Y-%m-%dT%H:%M:%S%.fZ", time_unit="ms")
        frame = frame.with_columns(times.dt.epoch("ms").alias("window"))
    number = frame["device"].str.strip_prefix("sensor-").cast(pl.Int64)
    columns = [frame[name].to_numpy() for name in ("window", "average", "score")]
    return oracle.Windows(columns[0].astype(np.int64), number.to_numpy(), columns[1].astype(float), columns[2].astype(float))


def batched_problems(rows: int, output: Path) -> list[str]:
    """Of Ringmill's J1 and J3, from the run that says which batches there were."""
    frame = pl.read_csv(output)
    scores, batch_rows = frame["score"].to_numpy().astype(float), frame["batch_rows"].to_numpy().astype(np.int64)
    return oracle.batched_differences(values()[:rows], scores, batch_rows)
