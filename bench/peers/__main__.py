"""Measures Ringmill and its peers: `scripts/bench peers`. Goes on where it was stopped; a peer that fails is recorded as failed.

scripts/bench peers [--quick] [--job J1 …] [--peer bytewax …] [--again]
"""

import argparse
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from . import environments, kafka, results, ring, runs
from .cases import JOBS, Case, cases

Task = Callable[[], None]


def main() -> None:
    """Runs what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="every peer and job once, small (under 8 minutes)")
    parser.add_argument("--full", action="store_true", help="the default: five runs of each, three of those that take long")
    parser.add_argument("--job", action="append", choices=list(JOBS), help="only this job (may be given again)")
    parser.add_argument("--peer", action="append", help="only this engine (may be given again), for example bytewax")
    parser.add_argument("--runs", type=int, help="runs of each")
    parser.add_argument("--again", action="store_true", help="forget what is there of what was chosen")
    parser.add_argument("--output", type=Path, help="folder of the results (default: bench/results/DATE-COMMIT/peers)")
    options = parser.parse_args()
    cpus = sorted(os.sched_getaffinity(0))[:2]
    output = (options.output or results.folder()).resolve()
    if options.quick and not options.output:
        output = environments.cache() / "quick"
    output.mkdir(parents=True, exist_ok=True)
    settings = runs.Settings(options.quick, options.runs, cpus, output, environments.cache() / "data", kafka.Brokers(cpus))

    def chosen(job: str, engine: str) -> bool:
        return (not options.job or job in options.job) and (not options.peer or engine in options.peer)

    selected = [case for case in cases() if chosen(case.job, case.engine)]
    ring_cases = [case for case in ring.cases() if chosen("ring", case.engine)]
    if options.again or options.quick:
        for name in [case.name for case in selected] + [case.name for case in ring_cases]:
            (output / f"{name}.json").unlink(missing_ok=True)
    print(f"results: {output}\ncores: {cpus}; leave the machine alone meanwhile", flush=True)
    prepare(selected, settings)
    measure(selected, ring_cases, settings)
    settings.brokers.end()


def prepare(selected: list[Case], settings: runs.Settings) -> None:
    """Environments and files, so that no run waits for them."""
    start = time.monotonic()
    print("preparing environments and files …", flush=True)
    for case in selected:
        try:
            runs.prepare(case, settings)
        except (subprocess.CalledProcessError, OSError) as error:
            runs.record_failure(case, settings, f"failed to prepare: {error}")
    print(f"  done in {time.monotonic() - start:.0f} s", flush=True)


def measure(selected: list[Case], ring_cases: list[ring.RingCase], settings: runs.Settings) -> None:
    """Run by run through all cases of a job, so that a change of the machine meets all of them alike."""
    start = time.monotonic()
    for job in JOBS:
        of_job = [case for case in selected if case.job == job]
        for number in range(settings.most_runs):
            for case in of_job:
                with tempfile.TemporaryDirectory(prefix="ringmill-peers-") as folder:
                    said = runs.run(case, number, settings, Path(folder))
                if said:
                    print(f"{time.monotonic() - start:6.0f} s  {case.name} run {number + 1}: {said}", flush=True)
    if ring_cases:
        shutil.rmtree("/tmp/iceoryx2-peers", ignore_errors=True)
    for number in range(settings.most_runs):
        for said in ring.runs(ring_cases, number, settings):
            print(f"{time.monotonic() - start:6.0f} s  {said}", flush=True)
    print(f"done in {(time.monotonic() - start) / 60:.1f} minutes; `scripts/bench report` writes bench/README.md", flush=True)


if __name__ == "__main__":
    main()
