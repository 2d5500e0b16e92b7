"""The job with the real command, between files that PyArrow writes and files that Polars reads."""

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from jobs import Example, Start

ROWS = 10_000


def write_trips(path: Path, first: int) -> None:
    """A file with trips from this number on; `meters` and `seconds` are narrower than the fields that take them."""
    numbers = np.arange(first, first + ROWS)
    table = pa.table(
        {
            "started": pa.array(1_700_000_000 + numbers, pa.timestamp("s", "UTC")),
            "station": pa.array([f"s{number % 10}" for number in numbers]).dictionary_encode(),
            "meters": pa.array(numbers, pa.float32()),
            "seconds": pa.array(numbers % 7, pa.int32()),
        }
    )
    path.parent.mkdir(exist_ok=True)
    pq.write_table(table, path, row_group_size=3_000)


def test_each_trip_gets_its_speed_and_new_files_are_read_by_the_next_run(example: Example, run: Start) -> None:
    folder = example("files")
    write_trips(folder / "trips" / "1.parquet", 0)
    assert run(folder).report["rows"]["in"] == ROWS
    write_trips(folder / "trips" / "2.parquet", ROWS)
    assert run(folder).report["rows"]["in"] == 2 * ROWS

    speeds = pl.read_parquet(folder / "speeds.parquet" / "*.parquet").sort("started")
    assert speeds.height == 2 * ROWS
    seconds = speeds["seconds"].to_numpy()
    expected = np.where(seconds > 0, speeds["meters"].to_numpy() * 3.6 / np.maximum(seconds, 1), 0.0)
    np.testing.assert_allclose(speeds["speed"].to_numpy(), expected)
