"""Is a commit slower than another? `scripts/bench compare BASE` runs the pipelines of this folder with both and shows ratios.

The machine is noisy, so the two sides of a pair of runs follow each other at once, every other pair the other way round, and
only ratios within a pair are looked at. A figure is worse when the median of its ratios is, by more than --allow, and so are
all pairs but one; then the exit code is 1.

A commit is built once, from a copy in Ringmill's cache, in the Cargo target of this clone: RocksDB is not compiled again, our
crates are, also those of this clone afterwards (some minutes each).
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
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import run

ROOT = Path(__file__).parent.parent
ROWS = 2_000_000
HIGHER_IS_BETTER = ("rows_per_second", "udf_busy")


@dataclass(frozen=True)
class Side:
    """What is compared."""

    name: str
    environment: Mapping[str, str]
    """Which command and which Python."""


@dataclass(frozen=True)
class Compared:
    """A figure of a case."""

    case: str
    figure: str
    base: float
    new: float
    """Medians."""
    ratios: tuple[float, ...]
    """Of each pair; above 1 is better."""

    def is_worse(self, allow: float) -> bool:
        """Whether the new side is, beyond noise."""
        limit = 1 - allow
        needed = max(1, len(self.ratios) - 1)
        return statistics.median(self.ratios) < limit and sum(ratio < limit for ratio in self.ratios) >= needed

    def line(self, allow: float) -> str:
        """For people."""
        least, most = min(self.ratios), max(self.ratios)
        verdict = "  WORSE" if self.is_worse(allow) else ""
        return (
            f"  {statistics.median(self.ratios):5.2f} ({least:.2f} to {most:.2f})  "
            f"{run.shown(self.figure, self.base)} -> {run.shown(self.figure, self.new)}{verdict}"
        )


def git(*arguments: str) -> str:
    """What it says.

    Raises:
        SystemExit: it failed.
    """
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"error: git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()


def commit_side(commit: str) -> Side:
    """A commit, built if it is not yet."""
    sha = git("rev-parse", "--verify", f"{commit}^{{commit}}")
    cache = Path(os.environ["RINGMILL_CACHE"], "compare", sha[:12])
    if not (cache / "ready").exists():
        print(f"building {commit} in {cache}", flush=True)
        shutil.rmtree(cache, ignore_errors=True)
        source = cache / "source"
        source.mkdir(parents=True)
        archive = cache / "source.tar"
        git("archive", "--output", str(archive), sha)
        subprocess.run(["tar", "--extract", "--file", archive, "--directory", source], check=True)
        archive.unlink()
        set_up(source, cache)
        shutil.copy2(os.environ["RINGMILL_BIN"], cache / "ringmill")
        (cache / "ready").touch()
    return Side(f"{commit} ({sha[:7]})", environment_of(cache / "ringmill", next(cache.glob("venv-*"))))


def set_up(source: Path, cache: Path) -> None:
    """Builds a clone with an environment of its own in `cache`, but in this clone's target."""
    environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "RINGMILL_PYTHON")}
    environment |= {"RINGMILL_CACHE": str(cache)}
    if subprocess.run([source / "scripts/setup"], env=environment, check=False).returncode != 0:
        sys.exit(f"error: {source} does not build")


def working_tree() -> Side:
    """This clone as it is."""
    set_up(ROOT, Path(os.environ["RINGMILL_CACHE"]))
    return Side("the working tree", environment_of(Path(os.environ["RINGMILL_BIN"]), Path(os.environ["VIRTUAL_ENV"])))


def environment_of(command: Path, venv: Path) -> dict[str, str]:
    """Of a side's runs."""
    return {
        "RINGMILL_BIN": str(command),
        "RINGMILL_PYTHON": str(venv / "bin/python"),
        "VIRTUAL_ENV": str(venv),
        "PATH": f"{venv / 'bin'}:{os.environ['PATH']}",
    }


def compare(case: run.Case, base: Side, new: Side, runs: int, folder: Path) -> list[Compared]:
    """Runs a case of both sides `runs` times, in turns."""
    reports: dict[str, list[dict[str, object]]] = {"base": [], "new": []}
    for number in range(runs):
        turns = (("base", base), ("new", new))
        for key, side in turns if number % 2 == 0 else reversed(turns):
            reports[key].append(run.run(case, folder, side.environment))
    return [figures(case.name, name, reports["base"], reports["new"]) for name in case.figures]


def figures(case: str, name: str, base: list[dict[str, object]], new: list[dict[str, object]]) -> Compared:
    """One figure of all runs."""
    before = [run.figure(report, name) for report in base]
    after = [run.figure(report, name) for report in new]
    pairs = zip(before, after, strict=True)
    ratios = [(new / base if name in HIGHER_IS_BETTER else base / new) for base, new in pairs if base > 0 and new > 0]
    return Compared(case, name, statistics.median(before), statistics.median(after), tuple(ratios) or (1.0,))


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", help="the commit to compare with")
    parser.add_argument("new", nargs="?", help="another commit (default: the working tree)")
    parser.add_argument("--runs", type=int, default=5, help="pairs of runs of each case (default 5)")
    parser.add_argument("--seconds", type=float, default=run.SECONDS, help=f"length of each (default {run.SECONDS})")
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    parser.add_argument("--allow", type=float, default=5, help="per cent that are no regression (default 5)")
    parser.add_argument("--keep", type=Path, help="a file for all ratios, as JSON")
    return parser.parse_args()


def main() -> None:
    """Compares; the exit code is 1 where something is worse."""
    asked = options()
    chosen = [case.lasting(asked.seconds) for case in run.cases(ROWS) if asked.only in case.name]
    if not chosen:
        sys.exit(
            f"error: no case has {asked.only!r} in its name; there are\n  " + "\n  ".join(case.name for case in run.cases(ROWS))
        )
    base = commit_side(asked.base)
    # Last, so that the target ends with this clone's build.
    new = commit_side(asked.new) if asked.new else working_tree()
    print(f"base: {base.name}; new: {new.name}; {asked.runs} pairs; above 1 is better", flush=True)
    found: list[Compared] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        shutil.copytree(run.PIPELINES, folder, dirs_exist_ok=True)
        if any(case.pipeline == "ndjson" for case in chosen):
            run.write_events(ROWS, folder, base.environment)
        for case in chosen:
            print(case.name, flush=True)
            for compared in compare(case, base, new, asked.runs, folder):
                print(compared.line(asked.allow / 100), flush=True)
                found.append(compared)
    if asked.keep:
        kept = [vars(compared) for compared in found]
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        asked.keep.write_text(json.dumps({"base": base.name, "new": new.name, "at": when, "figures": kept}, indent=1))
    worse = [compared for compared in found if compared.is_worse(asked.allow / 100)]
    if worse:
        sys.exit(f"{len(worse)} of {len(found)} figures are worse by more than {asked.allow:g} %")
    print(f"none of {len(found)} figures is worse by more than {asked.allow:g} %")


if __name__ == "__main__":
    main()
