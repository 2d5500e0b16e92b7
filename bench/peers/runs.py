"""Runs a case, checks what it gave, and writes down what it took."""

import json
import os
import shutil
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import cases, environments, histogram, kafka, latency, outputs, results
from .cases import START_ROWS, Case
from .measure import Measured, RunError
from .measure import run as run_program

BENCH = Path(__file__).parent.parent
PIPELINES = Path(__file__).parent / "ringmill"
TIMEOUT_S = 180.0
LONG_S = 14.0
"""A case whose run takes longer is run three times instead of five."""
CHECKED_ROWS = 1 << 18


@dataclass(frozen=True)
class Settings:
    """Of an invocation."""

    quick: bool
    runs: int | None
    cpus: list[int]
    output: Path
    data: Path
    brokers: kafka.Brokers

    @property
    def most_runs(self) -> int:
        """Of a case."""
        return self.runs or (1 if self.quick else 5)

    def rows(self, case: Case) -> int:
        """Of a run."""
        return case.rows_quick if self.quick else case.rows

    def seconds(self) -> int:
        """Of a run for latency."""
        return 3 if self.quick else 8


def prepare(case: Case, settings: Settings) -> None:
    """Its environment and its files."""
    if case.engine != "ringmill":
        environments.python(cases.requirements(case.engine))
    if case.job == "latency":
        return
    if case.check == "ringmill":
        checked = Case(case.job, "pathway", "", 0, 0, check="row_digest")  # the same file, with a header
        cases.input_of(checked, CHECKED_ROWS, settings.data)
        return
    for rows in (settings.rows(case), START_ROWS):
        cases.input_of(case, rows, settings.data)


def path_of(case: Case, settings: Settings) -> Path:
    """Of its results."""
    return settings.output / f"{case.name}.json"


def begin(case: Case, settings: Settings) -> results.Result:
    """What was measured before, or an empty result."""
    known = results.load(path_of(case, settings))
    if known:
        return known
    job = {
        "name": case.job,
        "engine": case.engine,
        "engine_version": cases.version(case.engine),
        "variant": case.variant or None,
        "workers": case.workers,
        "best": case.best,
        "note": case.note,
    }
    live = case.job == "latency"
    method = {
        "loop": "open" if live else "closed",
        "latency_from": "intended" if live else None,
        "generator": "process" if live else "file",
        "warmup_s": float(latency.WARMUP_S) if live else 0.0,
        "duration_s": float(settings.seconds()) if live else None,
        "rows": settings.rows(case),
        "runs": settings.most_runs,
        "quick": settings.quick,
    }
    result = results.new(job, method, settings.cpus)
    result["measurements"].append(results.new_measurement("live" if live else "steady", case.rate))
    return result


def record_failure(case: Case, settings: Settings, because: str) -> None:
    """For good, until --again."""
    result = begin(case, settings)
    results.invalidate(result, because)
    result["measurements"][0]["status"] = "invalid"
    results.save(path_of(case, settings), result)


def run(case: Case, number: int, settings: Settings, folder: Path) -> str | None:
    """Run `number`, if it is not there yet; says how it went in a few words."""
    result = begin(case, settings)
    measurement = result["measurements"][0]
    if result["status"] == "invalid" or len(measurement["runs"]) > number:
        return None
    if case.job == "latency" and number >= 3:
        return None
    if number >= 3 and not settings.runs and long(measurement):
        return None
    try:
        said = (
            live_run(case, settings, folder, measurement)
            if case.job == "latency"
            else file_run(case, settings, folder, measurement)
        )
    except (RunError, EOFError, TimeoutError, OSError, ValueError, KeyError, IndexError) as error:
        record_failure(case, settings, f"{type(error).__name__}: {error}")
        return f"FAILED: {error}"
    results.summarise(measurement)
    results.save(path_of(case, settings), result)
    return said


def long(measurement: dict[str, Any]) -> bool:
    """Whether three runs have to do."""
    return bool(statistics.median([run["wall_s"] for run in measurement["runs"]] or [0.0]) > LONG_S)


def file_run(case: Case, settings: Settings, folder: Path, measurement: dict[str, Any]) -> str:
    """A tiny run for the start-up (in the first three), and the one that counts."""
    starts = measurement.setdefault("startups_s", [])
    starts_cpu = measurement.setdefault("startups_cpu_s", [])
    if not measurement["runs"] and case.check == "ringmill":
        check_ringmill(case, settings, folder)
    if len(starts) < 3:
        tiny = checked_run(case, START_ROWS, settings, folder)
        starts.append(tiny.wall_s)
        starts_cpu.append(tiny.cpu_s)
    rows = settings.rows(case)
    source = cases.input_of(case, rows, settings.data)
    if case.job == "kafka":
        settings.brokers.topic(source)
    else:
        read_through(source)
    brokers_cpu_s = settings.brokers.cpu_s()
    measured = checked_run(case, rows, settings, folder)
    brokers_cpu_s = settings.brokers.cpu_s() - brokers_cpu_s
    startup_s = statistics.median(starts)
    steady_s = measured.wall_s - startup_s
    if steady_s <= 0:
        raise RunError(f"{rows} rows took no longer than {START_ROWS}")
    rate = (rows - START_ROWS) / steady_s
    measurement["runs"].append(
        {
            "status": "valid",
            "invalid_because": [],
            "rows_in": rows,
            "lost": 0,
            "achieved_rate": rate,
            "rate_with_startup": rows / measured.wall_s,
            "seconds": steady_s,
            "wall_s": measured.wall_s,
            "startup_s": startup_s,
            "latency_ns": {},
            "cpu_seconds": {"all": measured.cpu_s, **({"brokers": brokers_cpu_s} if case.job == "kafka" else {})},
            "memory_bytes": {"all": measured.memory_bytes},
        }
    )
    memory = measured.memory_bytes / 1e6
    return f"{rate / 1e6:.3f} M rows/s, start-up {startup_s:.2f} s, processor {measured.cpu_s:.1f} s, memory {memory:.0f} MB"


def read_through(path: Path) -> None:
    """Brings a file into the page cache, so that no engine waits for the disk."""
    with path.open("rb", buffering=0) as file:
        while file.read(1 << 20):
            pass


def checked_run(case: Case, rows: int, settings: Settings, folder: Path) -> Measured:
    """Runs it and compares its output.

    Raises:
        RunError: it failed, or its output is wrong.
    """
    if case.engine == "ringmill":
        return ringmill_run(case, rows, settings, folder)
    source = cases.input_of(case, rows, settings.data)
    output = folder / "output"
    shutil.rmtree(output, ignore_errors=True)
    output.unlink(missing_ok=True)
    command = cases.command(case, rows, source, output)
    if case.job == "kafka":
        topic = settings.brokers.topic(source)
        command += ["--brokers", settings.brokers.addresses, "--topic", topic]
    measured = run_program(command, settings.cpus, peer_environment(), folder, TIMEOUT_S)
    problems = outputs.problems(case, rows, output)
    if problems:
        raise RunError("wrong output: " + "; ".join(problems))
    return measured


def peer_environment() -> dict[str, str]:
    """So that a peer finds its program here and nothing else of ours."""
    path = ":".join(part for part in os.environ["PATH"].split(":") if "ringmill" not in part and "venv" not in part)
    return {"PYTHONPATH": str(BENCH), "PYTHONDONTWRITEBYTECODE": "1", "PATH": path, "VIRTUAL_ENV": ""}


PIPELINE = {"J1": "stateless", "J3": "stateless", "J4": "events", "kafka": "kafka"}


def ringmill_command(pipeline: str, settings: Settings, overrides: list[str]) -> list[str]:
    """A run of one of our pipelines, pinned."""
    command = [os.environ.get("RINGMILL_BIN") or "ringmill", "run", f"{pipeline}.toml", "--quiet", "--report", "report.json"]
    for override in [f"pipeline.cpus={json.dumps(settings.cpus)}", *overrides]:
        command += ["--set", override]
    return command


def ringmill_run(case: Case, rows: int, settings: Settings, folder: Path) -> Measured:
    """Ours."""
    shutil.copytree(PIPELINES, folder, dirs_exist_ok=True)
    overrides = list(case.settings)
    if case.check == "ringmill":
        overrides.append(f"sources.values.rows={rows}")
        if case.job == "J3":
            overrides += ['steps.scores.function="functions:heavy"', "pipeline.cpus=[]"]
    else:
        source = cases.input_of(case, rows, settings.data)
        given: dict[str, Any] = {"path": str(source)}
        if case.job == "kafka":
            topic = settings.brokers.topic(source)
            given = {"topics": [topic], "brokers": settings.brokers.addresses.split(",")}
        overrides += [f"sources.readings.{key}={json.dumps(value)}" for key, value in given.items()]
    command = ringmill_command(PIPELINE.get(case.job, "windows"), settings, overrides)
    measured = run_program(command, settings.cpus, {}, folder, TIMEOUT_S)
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    if not report["reconciled"] or report["rows"]["in"] != rows or report["rows"]["late"] or report["rows"]["dead_letters"]:
        raise RunError(f"rows are missing: {report['rows']}")
    if case.check == "windows":
        problems = outputs.problems(case, rows, folder / "output.csv")
        if problems:
            raise RunError("wrong output: " + "; ".join(problems))
    return measured


def check_ringmill(case: Case, settings: Settings, folder: Path) -> None:
    """J1 and J3 once from the peers' file to a file, where every score can be compared."""
    shutil.copytree(PIPELINES, folder, dirs_exist_ok=True)
    file_case = Case(case.job, "pathway", "", 0, 0, check="row_digest")
    source = cases.input_of(file_case, CHECKED_ROWS, settings.data)
    overrides = [*case.settings, f"sources.values.path={json.dumps(str(source))}"]
    run_program(ringmill_command("stateless_check", settings, overrides), settings.cpus, {}, folder, TIMEOUT_S)
    problems = outputs.batched_problems(CHECKED_ROWS, folder / "output.csv")
    if problems:
        raise RunError("wrong output: " + "; ".join(problems))


def live_run(case: Case, settings: Settings, folder: Path, measurement: dict[str, Any]) -> str:
    """One run of a live engine."""
    assert case.rate
    shutil.copytree(PIPELINES, folder, dirs_exist_ok=True)
    if case.engine == "ringmill":
        command, environment = ringmill_command("live", settings, []), {}
    else:
        command = cases.command(case, 0, Path("/dev/stdin"), Path("/dev/stdout"))
        environment = peer_environment()
    header = b"device,timestamp,temperature\n" if case.engine == "ringmill" else b""
    engine = latency.Engine(command, settings.cpus, environment, folder, by_socket=case.engine == "pyflink", header=header)
    try:
        measured = latency.measure(engine, case.rate, settings.seconds(), settings.cpus)
    finally:
        engine.end()
    samples = histogram.of(measured.nanoseconds)
    run: dict[str, Any] = {
        "status": "invalid" if measured.problems else "valid",
        "invalid_because": measured.problems,
        "rows_in": measured.events,
        "rows_out": len(measured.nanoseconds),
        "lost": measured.expected - len(measured.nanoseconds),
        "achieved_rate": measured.events / measured.seconds,
        "seconds": float(settings.seconds()),
        "wall_s": float(measured.seconds),
        "generator": {"released": measured.events, "lag_ns": histogram.latency(histogram.of(measured.lag_ns))},
        "latency_ns": {"end_to_end": histogram.latency(samples)},
    }
    measurement["runs"].append(run)
    before = measurement["latency_ns"].get("end_to_end", {}).get("histogram")
    whole = histogram.merged([histogram.decoded(before), samples]) if before else samples
    measurement["latency_ns"]["end_to_end"] = histogram.latency(whole, with_samples=True)
    for name in ("p50", "p99"):
        figures = [each["latency_ns"]["end_to_end"][name] for each in measurement["runs"]]
        measured_ones = [figure for figure in figures if figure is not None]
        if measured_ones:
            measurement["spread_ns"].setdefault("end_to_end", {})[name] = results.spread(measured_ones)
    if measured.problems:
        raise RunError("; ".join(measured.problems))
    ended = run["latency_ns"]["end_to_end"]
    return f"p50 {(ended['p50'] or 0) / 1e6:.2f} ms, p99 {(ended['p99'] or 0) / 1e6:.2f} ms"
