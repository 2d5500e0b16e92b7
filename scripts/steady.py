"""Runs a pipeline for a long time at 70 % of the rate that it can sustain, with a fault each minute.

    python steady.py FOLDER [--minutes N] [--rate ROWS] [--fault-every SECONDS] [--small-disk]

Rows of a generator go through a Python function into windows, whose results appear as parts in a folder; they are read and
taken away as a reader would. First the rate at which the pipeline runs unhindered is measured. Then, in turn, a worker is
killed, the function hangs, the disk is full for a while (with --small-disk: FOLDER is a file system of its own that may
be filled), and the core is killed and started again. Each minute gives a line. In the end every row has to be in exactly
one window, each window there once, and those of each device in order; memory and descriptors must not have grown. Exit
code 1 if any of that fails.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

RINGMILL = os.environ.get("RINGMILL_BIN", "ringmill")

KEYS = 1000
SHARE = 0.7
"""Of the sustainable rate."""
MEASURED_SECONDS = 10
"""How long the sustainable rate is measured."""
FULL_SECONDS = 5.0
"""How long the disk stays full."""
PARTS_AT_WORK = 3
"""A run that has shown so many parts since the last fault is at work; one that starts shows at most one or two."""
GROWTH_MAX = 1.25
"""How much more memory the second half of the run may need than the first."""
SLACK_BYTES = 32 << 20
"""Memory that allocators hold back, more or less, from minute to minute."""

PIPELINE = f"""
[checkpoint]
path = "state"
interval = "1s"

[sources.sensors]
kind = "generator"
keys = {KEYS}
event_time = "timestamp"

[steps.scores]
kind = "udf"
inputs = ["sensors"]
function = "functions:score"
timeout = "2s"
restarts_max = 100

[steps.highest]
kind = "window"
inputs = ["scores"]
key = ["device_id"]
window = {{ tumbling = "100s" }}
aggregates = {{ readings = "count()", most = "max(score)" }}

[sinks.windows]
kind = "file"
inputs = ["highest"]
path = "windows/"
format = "json"
"""

FUNCTIONS = """
import os
import time

import numpy as np
import ringmill as rm


@rm.udf(outputs={"score": rm.float64})
def score(temperature: np.ndarray, humidity: np.ndarray):
    if os.path.exists("hang"):
        os.remove("hang")
        time.sleep(3600)
    return np.abs(temperature - 20) + humidity
"""


@dataclass
class Windows:
    """The windows that came out, checked as they come."""

    folder: Path
    readings: int = 0
    rows: int = 0
    parts: int = 0
    newest: dict[str, str] = field(default_factory=dict)
    """The last window of each device."""

    def take(self) -> None:
        """Reads the parts that are there, in their order, and removes them."""
        for part in sorted(self.folder.glob("part-*.json")):
            for line in part.read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                device, start = row["device_id"], row["window_start"]
                if start <= self.newest.get(device, ""):
                    sys.exit(f"FAILED: window {start} of {device} came after {self.newest[device]}")
                self.newest[device] = start
                self.readings += row["readings"]
                self.rows += 1
            self.parts += 1
            part.unlink()


@dataclass(frozen=True)
class Usage:
    """What core and workers hold at one moment."""

    memory_bytes: int
    descriptors: int


class Run:
    """The pipeline's process, started again when it was killed."""

    def __init__(self, folder: Path, rate: int, rows: int) -> None:
        self.folder = folder
        settings = [f"sources.sensors.rate={rate}", f"sources.sensors.rows={rows}"]
        self.command = [RINGMILL, "run", "pipeline.toml", "--quiet", "--report", "report.json"]
        self.command += [part for setting in settings for part in ("--set", setting)]
        self.starts = 0
        self.start()

    def start(self) -> None:
        """Starts it, for the first time or again."""
        self.starts += 1
        self.process = subprocess.Popen(self.command, cwd=self.folder)

    def has_ended(self) -> bool:
        """Whether everything is done; a failure ends the program."""
        code = self.process.poll()
        if code not in (None, 0):
            sys.exit(f"FAILED: the run ended with exit code {code}")
        return code == 0

    def processes(self) -> list[int]:
        """Core and workers."""
        found = [self.process.pid]
        for task in Path(f"/proc/{self.process.pid}/task").glob("*/children"):
            try:
                found += [int(pid) for pid in task.read_text(encoding="ascii").split()]
            except OSError:
                continue  # The thread has just ended.
        return found

    def usage(self) -> Usage:
        """Memory and descriptors."""
        memory = descriptors = 0
        for pid in self.processes():
            try:
                status = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
                descriptors += len(list(Path(f"/proc/{pid}/fd").iterdir()))
            except OSError:
                continue  # It has just ended.
            memory += sum(int(line.split()[1]) << 10 for line in status if line.startswith("RssAnon:"))
        return Usage(memory, descriptors)

    def stop(self) -> None:
        """Ends it at once."""
        self.process.kill()
        self.process.wait()


def kill_worker(run: Run) -> str:
    """One of the workers, if there is one at this moment."""
    workers = run.processes()[1:]
    if workers:
        os.kill(workers[0], signal.SIGKILL)
    return "worker killed"


def hang(run: Run) -> str:
    """The next batch is not answered."""
    (run.folder / "hang").touch()
    return "function hung"


def fill_disk(run: Run) -> str:
    """Nobody can write anything for a while."""
    ballast = run.folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        size = 1 << 20
        while size:
            try:
                file.write(bytes(size))
            except OSError:
                size //= 2
    time.sleep(FULL_SECONDS)
    ballast.unlink()
    return f"disk full for {FULL_SECONDS:.0f} s"


def kill_core(run: Run) -> str:
    """And its workers with it."""
    if not run.has_ended():
        run.stop()
        run.start()
    return "core killed"


def faults(small_disk: bool) -> Iterator[str]:
    """Names of the faults, in turn, without end."""
    names = ["worker", "hang", *(["disk"] if small_disk else []), "core"]
    while True:
        yield from names


FAULTS = {"worker": kill_worker, "hang": hang, "disk": fill_disk, "core": kill_core}


def sustainable_rate(folder: Path) -> int:
    """Rows a second without a limit."""
    run = [RINGMILL, "run", "pipeline.toml", "--quiet", "--report", "report.json", "--duration", f"{MEASURED_SECONDS}s"]
    subprocess.run(run, cwd=folder, check=True)
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    subprocess.run(["rm", "-r", "state", "windows"], cwd=folder, check=True)
    return int(report["rows_per_second"])


def is_flat(figures: list[int], slack: int) -> bool:
    """Whether the second half of the figures is about as high as the first."""
    half = len(figures) // 2
    return half == 0 or max(figures[half:]) <= GROWTH_MAX * max(figures[:half]) + slack


def disturbed(run: Run, windows: Windows, fault_every: float, small_disk: bool) -> list[Usage]:
    """Runs to the end in spite of a fault every so often; what was used before each."""
    usages: list[Usage] = []
    names, started, readings, parts = faults(small_disk), time.monotonic(), 0, 0
    next_fault = last = started
    next_fault += fault_every
    while not run.has_ended():
        time.sleep(0.2)
        windows.take()
        now = time.monotonic()
        if now < next_fault or windows.parts < parts + PARTS_AT_WORK:
            continue
        next_fault = now + fault_every
        usages.append(run.usage())
        rate = (windows.readings - readings) / (now - last)
        last, readings, parts = now, windows.readings, windows.parts
        what = FAULTS[next(names)](run)
        usage = usages[-1]
        print(
            f"{(now - started) / 60:6.1f} min  {rate:12,.0f} rows/s in windows  {usage.memory_bytes >> 20:6} MiB  "
            f"{usage.descriptors:5} descriptors  then {what}",
            flush=True,
        )
    return usages


def main() -> None:
    """Measures, disturbs, judges."""
    parser = argparse.ArgumentParser(description="A long run with a fault each minute.")
    parser.add_argument("folder", type=Path, help="an empty folder, or a small file system to be filled")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--rate", type=int, default=None, help="rows a second, instead of measuring")
    parser.add_argument("--fault-every", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument("--small-disk", action="store_true", help="the folder's file system may be filled")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    (folder / "pipeline.toml").write_text(PIPELINE, encoding="utf-8")
    (folder / "functions.py").write_text(FUNCTIONS, encoding="utf-8")
    rate = arguments.rate
    if rate is None:
        sustainable = sustainable_rate(folder)
        rate = int(SHARE * sustainable)
        print(f"sustainable: {sustainable:,} rows/s; the run takes {rate:,}", flush=True)
    rows = int(rate * arguments.minutes * 60)
    windows = Windows(folder / "windows")
    run = Run(folder, rate, rows)
    try:
        usages = disturbed(run, windows, arguments.fault_every, arguments.small_disk)
    finally:
        run.stop()
    windows.take()
    print(f"{windows.readings:,} of {rows:,} rows in {windows.rows:,} windows, {run.starts - 1} starts of a killed core")
    if windows.readings != rows:
        sys.exit("FAILED: rows are missing or counted twice")
    for name, figures, slack in (
        ("memory", [usage.memory_bytes for usage in usages], SLACK_BYTES),
        ("descriptors", [usage.descriptors for usage in usages], 16),
    ):
        if not is_flat(figures, slack):
            sys.exit(f"FAILED: {name} has grown: {figures}")
    print("every row is in one window, and memory and descriptors are flat")


if __name__ == "__main__":
    main()
