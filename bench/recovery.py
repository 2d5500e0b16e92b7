"""What checkpoints cost and how soon output resumes after a kill: `scripts/bench recovery`.

Runs with and without checkpoints alternate, so that both see the same machine; compare the ratios, not the figures.
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
from pathlib import Path
from typing import Any

PIPELINES = Path(__file__).parent / "pipelines"
PERCENTILE = "p99_9"


def command(settings: list[str], seconds: int | None) -> list[str]:
    """The command line of a run of state.toml."""
    run = [os.environ.get("RINGMILL_BIN") or shutil.which("ringmill") or "ringmill"]
    run += ["run", "state.toml", "--quiet", "--report", "report.json"]
    if seconds is not None:
        run += ["--duration", f"{seconds}s"]
    for setting in settings:
        run += ["--set", setting]
    return run


def measure(folder: Path, settings: list[str], seconds: int) -> dict[str, Any]:
    """One run from the beginning; returns its report."""
    shutil.rmtree(folder / "state", ignore_errors=True)
    done = subprocess.run(command(settings, seconds), cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"the run failed:\n{done.stdout}{done.stderr}")
    report: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return report


def checkpoints_cost(folder: Path, runs: int, seconds: int) -> None:
    """Throughput and latency with a checkpoint every second, as a share of those without."""
    rates, tails = [], []
    for _ in range(runs):
        without = measure(folder, [], seconds)
        with_checkpoints = measure(folder, ['checkpoint.path="state"', 'checkpoint.interval="1s"'], seconds)
        rates.append(with_checkpoints["rows_per_second"] / without["rows_per_second"])
        tails.append(with_checkpoints["latency_ns"]["end_to_end"][PERCENTILE] / without["latency_ns"]["end_to_end"][PERCENTILE])
        taken = with_checkpoints["checkpoints"]["count"]
        print(
            f"  without: {without['rows_per_second'] / 1e6:.1f} M rows/s, with {taken} checkpoints: "
            f"{with_checkpoints['rows_per_second'] / 1e6:.1f} M rows/s ({rates[-1]:.2f}), p99.9 x{tails[-1]:.2f}",
            flush=True,
        )
    print(f"checkpoint every second, 1.1 M keys, 100 k changed: {statistics.median(rates):.2f} of the throughput, ", end="")
    print(f"p99.9 x{statistics.median(tails):.2f} (median of {runs} pairs)")


def newest(folder: Path) -> int:
    """Number of the newest checkpoint."""
    checkpoints = folder / "state/checkpoints"
    names = [entry.name for entry in checkpoints.iterdir()] if checkpoints.is_dir() else []
    return max((int(name) for name in names if name.isdigit()), default=0)


def wait_for(folder: Path, core: "subprocess.Popen[bytes]", epoch: int) -> None:
    """Until there is a checkpoint of `epoch` or a later one."""
    while newest(folder) < epoch:
        if core.poll() is not None:
            sys.exit(f"the run ended with exit code {core.returncode}")
        time.sleep(0.002)


def core_kills(folder: Path, kills: int) -> None:
    """From the kill of the core (and its start at once) to the next checkpoint, which is when a sink shows new rows."""
    shutil.rmtree(folder / "state", ignore_errors=True)
    run = command(['checkpoint.path="state"', 'checkpoint.interval="200ms"', "sources.hot.rate=500_000"], None)
    took = []
    core = subprocess.Popen(run, cwd=folder)
    wait_for(folder, core, 5)
    for _ in range(kills):
        core.kill()
        killed = time.monotonic()
        core.wait()
        known = newest(folder)
        core = subprocess.Popen(run, cwd=folder, stderr=subprocess.DEVNULL)
        wait_for(folder, core, known + 1)
        took.append(time.monotonic() - killed)
        wait_for(folder, core, known + 3)
    core.kill()
    core.wait()
    shown = ", ".join(f"{seconds:.2f}" for seconds in sorted(took))
    print(f"core killed, 1.1 M keys: next checkpoint committed after {statistics.median(took):.2f} s (all: {shown})")


def main() -> None:
    """Measures all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="pairs of runs (default 5)")
    parser.add_argument("--seconds", type=int, default=10, help="length of each (default 10)")
    parser.add_argument("--kills", type=int, default=10, help="kills of the core (default 10)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        shutil.copytree(PIPELINES, folder, dirs_exist_ok=True)
        checkpoints_cost(folder, options.runs, options.seconds)
        core_kills(folder, options.kills)


if __name__ == "__main__":
    main()
