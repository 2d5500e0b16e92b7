"""Runs the demo's pipeline while its worker and its core are killed, and compares the outcome with an undisturbed run.

    python chaos.py PIPELINE FOLDER [--rows N] [--kills N] [--seed N]

Half of the kills (SIGKILL) hit a worker, which the core replaces; the other half hit the core, which this script starts
again. In the end the alerts and the totals of both runs have to be the same, row for row. Exit code 1 if they are not.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

RINGMILL = os.environ.get("RINGMILL_BIN", "ringmill")


@dataclass(frozen=True)
class Outcome:
    """What a run leaves behind."""

    alerts: list[str]
    """Lines of the alerts, sorted: shards share the file."""
    rows_in: int
    rows_out: int


@dataclass
class Kills:
    """What was killed so far."""

    workers: int = 0
    cores: int = 0

    def __str__(self) -> str:
        return f"{self.workers} workers and {self.cores} cores were killed"


def command(pipeline: Path, folder: Path, rows: int, settings: list[str]) -> list[str]:
    """The run's command line; its outputs go into the folder."""
    path = json.dumps(str(folder / "alerts.ndjson"))
    run = [RINGMILL, "run", str(pipeline), "--quiet", "--report", str(folder / "report.json")]
    for setting in [f"sinks.alerts.path={path}", f"sources.sensors.rows={rows}", *settings]:
        run += ["--set", setting]
    return run


def outcome(folder: Path) -> Outcome:
    """Reads what a run left."""
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    alerts = (folder / "alerts.ndjson").read_text(encoding="utf-8").splitlines()
    return Outcome(sorted(alerts), report["rows"]["in"], report["rows"]["out"]["alerts"])


def workers_of(core: int) -> list[int]:
    """Worker processes of a core."""
    found = []
    for task in Path(f"/proc/{core}/task").glob("*/children"):
        try:
            found += [int(pid) for pid in task.read_text(encoding="ascii").split()]
        except OSError:
            continue  # The thread has just ended.
    return found


def disturbed(run: list[str], state: Path, kills_wanted: int, chance: random.Random) -> Kills:
    """Runs to the end in spite of everything."""
    kills = Kills()
    while True:
        core = subprocess.Popen(run)
        known = newest_checkpoint(state)
        while core.poll() is None:
            time.sleep(chance.uniform(0.2, 0.8))
            if kills.workers + kills.cores >= kills_wanted:
                core.wait()
            elif newest_checkpoint(state) <= known:
                continue  # It is not at work yet.
            elif core.poll() is None and chance.random() < 0.5 and (workers := workers_of(core.pid)):
                os.kill(chance.choice(workers), signal.SIGKILL)
                kills.workers += 1
                print(f"  killed a worker  ({kills.workers + kills.cores} of {kills_wanted})", flush=True)
            elif core.poll() is None:
                core.kill()
                kills.cores += 1
                print(f"  killed the core at checkpoint {newest_checkpoint(state)}", flush=True)
        if core.returncode == 0:
            return kills
        if core.returncode != -signal.SIGKILL:
            sys.exit(f"error: the run ended with exit code {core.returncode}")


def newest_checkpoint(state: Path) -> int:
    """Number of the newest checkpoint; 0: there is none."""
    folder = state / "checkpoints"
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    return max((int(name) for name in names if name.isdigit()), default=0)


def main() -> None:
    """Compares the two runs."""
    parser = argparse.ArgumentParser(description="Kills workers and the core while the demo runs.")
    parser.add_argument("pipeline", type=Path)
    parser.add_argument("folder", type=Path, help="for the outputs; has to exist")
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--seed", type=int, default=None)
    arguments = parser.parse_args()
    calm, chaos = arguments.folder / "calm", arguments.folder / "chaos"
    calm.mkdir()
    chaos.mkdir()
    print("an undisturbed run …", flush=True)
    started = time.monotonic()
    subprocess.run(command(arguments.pipeline, calm, arguments.rows, []), check=True)
    expected = outcome(calm)
    print(f"  {expected.rows_in:,} rows, {len(expected.alerts):,} alerts, {time.monotonic() - started:.1f} s")
    print("the same with a checkpoint each half second, and with kills …", flush=True)
    state = chaos / "state"
    # Slow enough for all the kills to find it at work.
    rate = arguments.rows / max(1.0, 0.8 * arguments.kills)
    settings = [
        f"checkpoint.path={json.dumps(str(state))}",
        'checkpoint.interval="500ms"',
        f"sources.sensors.rate={rate:.0f}",
        "steps.scores.restarts_max=1000",
    ]
    seed = random.SystemRandom().randrange(2**32) if arguments.seed is None else arguments.seed
    run = command(arguments.pipeline, chaos, arguments.rows, settings)
    kills = disturbed(run, state, arguments.kills, random.Random(seed))
    found = outcome(chaos)
    print(f"  {kills} (--seed {seed})")
    print(f"  {found.rows_in:,} rows, {len(found.alerts):,} alerts")
    if found != expected:
        missing, extra = set(expected.alerts) - set(found.alerts), set(found.alerts) - set(expected.alerts)
        sys.exit(f"DIFFERENT: {len(missing)} alerts are missing, {len(extra)} should not be there")
    print("the same rows, the same alerts: nothing lost, nothing repeated")


if __name__ == "__main__":
    main()
