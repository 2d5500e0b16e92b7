"""Runs the pipelines of this folder and prints what they reach: `scripts/bench`.

Every figure is the median of the runs; all runs are kept as JSON, with histograms, in the folder given by --keep.
The machine is noisy: compare figures of one invocation with each other, not with those of another day.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import postgres_server

PIPELINES = Path(__file__).parent / "pipelines"
SECONDS = 5


@dataclass(frozen=True)
class Case:
    """One pipeline with settings, and the figures of it that are worth a column."""

    name: str
    pipeline: str
    settings: tuple[str, ...] = ()
    seconds: float | None = SECONDS
    figures: tuple[str, ...] = ("rows_per_second",)
    runs: list[dict[str, Any]] = field(default_factory=list, compare=False)

    def lasting(self, seconds: float) -> "Case":
        """The same for so long, unless it ends by itself."""
        return replace(self, seconds=self.seconds and seconds, runs=[])


def cases(rows: int) -> Iterator[Case]:
    """All of them; `rows` is the length of the NDJSON file."""
    udf = ("rows_per_second", "udf_busy")
    for batch_rows in (256, 1024, 4096):
        yield Case(f"z-score, batches of {batch_rows}", "zscore", (f"steps.scores.batch_rows={batch_rows}",), figures=udf)
    yield Case("z-score in place, batches of 1024", "zscore", ('steps.scores.function="functions:zscore_in_place"',), figures=udf)
    every = 'sources.sensors.columns=["device_id","timestamp","temperature","humidity","air_quality"]'
    yield Case("z-score, batches of 1024, all five columns", "zscore", (every,), figures=udf)
    round_trip = ("end_to_end.p50", "end_to_end.p99", "request_ring.p50", "udf.p50", "response_ring.p50")
    yield Case("one event to Python and back, 10,000/s", "nothing", figures=round_trip)
    yield Case("telemetry: generator, 500 k keys, windows, Python", "telemetry", seconds=2 * SECONDS)
    whole = ("rows_per_second", "memory_bytes.core")
    yield Case(f"{rows:,} lines of NDJSON, 500 k keys, windows, Python, file", "ndjson", seconds=None, figures=whole)


def run(case: Case, folder: Path, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """One run, with other variables if need be; returns its report."""
    variables = os.environ | (environment or {})
    command = variables.get("RINGMILL_BIN") or shutil.which("ringmill") or "ringmill"
    arguments = [command, "run", f"{case.pipeline}.toml", "--quiet", "--report", "report.json"]
    if case.seconds is not None:
        arguments += ["--duration", f"{case.seconds * 1000:.0f}ms"]
    for setting in case.settings:
        arguments += ["--set", setting]
    done = subprocess.run(arguments, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
    report: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return report


def write_events(rows: int, folder: Path, environment: Mapping[str, str] | None = None) -> None:
    """The NDJSON file of the case that reads one."""
    run(Case("the file", "write_events", (f"sources.sensors.rows={rows}",), seconds=None), folder, environment)


def figure(report: dict[str, Any], name: str) -> float:
    """A figure of a report: a key, a latency such as `udf.p50`, or the share of time inside the function."""
    if name == "udf_busy":
        return float(report["workers"]["busy_seconds"]) / float(report["seconds"])
    if name.startswith("memory_bytes."):
        return float(report["memory_bytes"][name.removeprefix("memory_bytes.")])
    stage, _, percentile = name.partition(".")
    return float(report["latency_ns"][stage][percentile] if percentile else report[name])


def shown(name: str, value: float) -> str:
    """With its unit."""
    match name:
        case "rows_per_second":
            return f"{value / 1e6:.2f} M rows/s"
        case "udf_busy":
            return f"{value:.0%} inside the function"
        case _ if name.startswith("memory_bytes."):
            return f"{value / 1e6:.0f} MB ({name.removeprefix('memory_bytes.')})"
        case _:
            return f"{name.replace('.', ' ')} {value / 1e3:.2f} µs"


def postgres_rates(folder: Path, runs: int, settings: tuple[str, ...] = ()) -> tuple[list[float], list[float]] | None:
    """Rows a second into PostgreSQL, and of a COPY of the server's own from a file, in turns; `None`: it is not installed."""
    programs = postgres_server.programs()
    if programs is None:
        return None
    case = Case("postgres", "postgres", settings, seconds=None)
    reached, copies = [], []
    with postgres_server.server(programs) as server:
        environment = {"RINGMILL_BENCH_POSTGRES": server.url}
        for _ in range(runs):
            shutil.rmtree(folder / "state", ignore_errors=True)
            reached.append(figure(run(case, folder, environment), "rows_per_second"))
            rows = int(server.sql("SELECT count(*) FROM sensors"))
            file = server.folder / "rows"
            server.sql(f"COPY sensors TO '{file}' (FORMAT binary); CREATE TABLE again (LIKE sensors INCLUDING ALL)")
            started = time.monotonic()
            server.sql(f"COPY again FROM '{file}' (FORMAT binary)")
            copies.append(rows / (time.monotonic() - started))
            server.sql("DROP TABLE sensors, again")
            file.unlink()
    return reached, copies


def run_postgres(folder: Path, runs: int) -> None:
    """Rows into PostgreSQL, beside its own COPY."""
    rates = postgres_rates(folder, runs)
    if rates is None:
        print("PostgreSQL: skipped, it is not installed (apt-get install postgresql)", flush=True)
        return
    reached, floor = (shown("rows_per_second", statistics.median(each)) for each in rates)
    print(f"generator, 5 columns, into a table of PostgreSQL: {reached}; COPY from a file {floor}", flush=True)


def main() -> None:
    """Runs what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="runs of each case (default 5)")
    parser.add_argument("--rows", type=int, default=20_000_000, help="lines of the NDJSON file (default 20 million, 2 GB)")
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    parser.add_argument("--keep", type=Path, help="a folder for the reports of all runs")
    options = parser.parse_args()
    chosen = [case for case in cases(options.rows) if options.only in case.name]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        shutil.copytree(PIPELINES, folder, dirs_exist_ok=True)
        if any(case.pipeline == "ndjson" for case in chosen):
            write_events(options.rows, folder)
        for case in chosen:
            for _ in range(options.runs):
                case.runs.append(run(case, folder))
            figures = [(name, statistics.median(figure(report, name) for report in case.runs)) for name in case.figures]
            print(f"{case.name}: " + ", ".join(shown(name, value) for name, value in figures), flush=True)
        if options.only in "postgres":
            run_postgres(folder, options.runs)
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
        kept = {case.name: case.runs for case in chosen}
        target = options.keep / time.strftime("%Y-%m-%dT%H%M%SZ.json", time.gmtime())
        target.write_text(json.dumps(kept, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
