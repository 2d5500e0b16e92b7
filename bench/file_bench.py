"""Rows a second into files of each format, out of them, and into PostgreSQL: `scripts/bench files`.

Rows have five columns and come from the generator; a checkpoint every second commits them. Each format's files are then read
and counted. What is measured goes to ``bench/results/<day>-<commit>/files.json``, of which `scripts/bench report` makes the
table of bench/README.md.
"""

import argparse
import shutil
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import run
from peers import results

FORMATS = ("parquet", "arrow", "csv", "json")
ROLLED = ('sinks.out.file_size_max="128MiB"', 'sinks.out.roll_interval="1m"')


def cases(rows: int) -> Iterator[run.Case]:
    """Each format is written, then read."""
    for form in FORMATS:
        chosen = (f'sinks.out.format="{form}"', f"sources.sensors.rows={rows}")
        if form == "parquet":
            yield run.Case("write parquet, rolled", "write_files", chosen + ROLLED, seconds=None)
        yield run.Case(f"write {form}", "write_files", chosen, seconds=None)
        yield run.Case(f"read {form}", "read_files", (f'sources.sensors.format="{form}"',), seconds=None)


def measure(case: run.Case, folder: Path, rows: int) -> dict[str, Any]:
    """One run, from an empty folder if it writes; fails unless it had all the rows."""
    shutil.rmtree(folder / "state", ignore_errors=True)
    if case.pipeline == "write_files":
        shutil.rmtree(folder / "files", ignore_errors=True)
    report = run.run(case, folder)
    found = report["rows"]["in"]
    if found != rows:
        raise ValueError(f"{case.name}: {found} rows instead of {rows}")
    seconds, rate = float(report["seconds"]), run.figure(report, "rows_per_second")
    return {"achieved_rate": rate, "wall_s": seconds, "memory_bytes": report["memory_bytes"]}


def measured(identity: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """A measurement of the result's file, which is printed as well."""
    measurement = results.new_measurement(identity)
    measurement["runs"] = runs
    results.summarise(measurement)
    median = statistics.median(each["achieved_rate"] for each in runs)
    print(f"{identity}: {run.shown('rows_per_second', median)}", flush=True)
    return measurement


def main() -> None:
    """Measures, and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="runs of each case (default 5)")
    parser.add_argument("--rows", type=int, default=10_000_000, help="rows of a run (default 10 million)")
    parser.add_argument("--no-postgres", action="store_true", help="files alone")
    parser.add_argument("--quick", action="store_true", help="100,000 rows, one run: whether it works; the report leaves it out")
    parser.add_argument("--to", type=Path, help="where the result goes (default bench/results/<day>-<commit>/files.json)")
    options = parser.parse_args()
    rows, runs = (100_000, 1) if options.quick else (options.rows, options.runs)
    job = {"name": "files", "engine": "ringmill", "engine_version": None, "variant": None, "workers": 0}
    result = results.new(job, {"loop": "closed", "quick": options.quick, "rows": rows}, [])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        shutil.copytree(run.PIPELINES, folder, dirs_exist_ok=True)
        for case in cases(rows):
            result["measurements"].append(measured(case.name, [measure(case, folder, rows) for _ in range(runs)]))
        rates = None if options.no_postgres else run.postgres_rates(folder, runs, (f"sources.sensors.rows={rows}",))
        for name, reached in zip(("write PostgreSQL", "COPY of the server's own, from a file"), rates or (), strict=False):
            result["measurements"].append(measured(name, [{"achieved_rate": rate} for rate in reached]))
    target = options.to or results.folder().parent / "files.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    results.save(target, result)
    print(f"written: {target}")


if __name__ == "__main__":
    main()
