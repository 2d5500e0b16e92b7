"""The ring beside other ways between two processes: cases, and a run of each (ring/ in Rust, engines/messages.py in Python)."""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import environments, histogram, measure, results
from .measure import RunError
from .runs import Settings, peer_environment

SIZES = (64, 1024, 6144, 65536)
IDENTITIES = [f"{kind}-{size}" for size in SIZES for kind in ("round-trip", "throughput")]
"""Of the measurements of a case."""
CRATE = Path(__file__).parent / "ring"
TIMEOUT_S = 60.0
SECONDS = 0.25
"""About how long a measurement takes; twice that for round trips with their warming up."""


@dataclass(frozen=True)
class RingCase:
    """One way and how its ends wait; all sizes, round trips and throughput."""

    engine: str
    wait: str
    language: str
    round_trip_us: float
    """Roughly, to choose how many are made in a run."""
    messages_per_second: dict[int, float]
    """Likewise."""

    @property
    def name(self) -> str:
        """Fit for a file name."""
        return f"ring-{self.engine}-{self.wait}"

    def count(self, round_trip: bool, size: int) -> int:
        """Messages in a run."""
        rate = 1e6 / self.round_trip_us if round_trip else self.messages_per_second[size]
        if round_trip and size > 16_384:
            rate /= 4
        return max(200, int(rate * SECONDS))


def rates(*millions: float) -> dict[int, float]:
    """Of each size."""
    return {size: rate * 1e6 for size, rate in zip(SIZES, millions, strict=True)}


def cases() -> Iterator[RingCase]:
    """All of them."""
    yield RingCase("ringmill", "spin", "rust", 0.3, rates(60, 12, 3, 0.25))
    yield RingCase("iceoryx2", "spin", "rust", 1.3, rates(1.7, 1.4, 0.8, 0.13))
    yield RingCase("unix-socket", "spin", "rust", 4, rates(1, 0.8, 0.4, 0.05))
    yield RingCase("pipe", "spin", "rust", 4, rates(1.5, 1, 0.4, 0.06))
    yield RingCase("ringmill", "block", "rust", 60, rates(40, 8, 2, 0.2))
    yield RingCase("iceoryx2", "block", "rust", 80, rates(0.7, 0.6, 0.4, 0.1))
    yield RingCase("unix-socket", "block", "rust", 60, rates(0.8, 0.6, 0.3, 0.05))
    yield RingCase("pipe", "block", "rust", 60, rates(1.0, 0.8, 0.3, 0.05))
    yield RingCase("iceoryx2-python", "spin", "python", 14, rates(0.04, 0.04, 0.04, 0.02))
    yield RingCase("zeromq", "spin", "python", 40, rates(0.5, 0.4, 0.15, 0.03))
    yield RingCase("zeromq", "block", "python", 80, rates(0.5, 0.4, 0.15, 0.03))
    yield RingCase("mp-queue", "block", "python", 110, rates(0.15, 0.15, 0.1, 0.02))
    yield RingCase("mp-pipe", "block", "python", 76, rates(0.3, 0.3, 0.16, 0.02))


def program() -> Path:
    """The harness, built if need be."""
    target = environments.cache() / "ring-target"
    environment = os.environ | {"CARGO_TARGET_DIR": str(target)}
    done = subprocess.run(
        ["cargo", "build", "--quiet", "--release", "--locked", "--manifest-path", str(CRATE / "Cargo.toml")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RunError("the harness does not build: " + " | ".join(done.stderr.strip().splitlines()[-5:]))
    return target / "release" / "peers-ring"


def runs(all_cases: list[RingCase], number: int, settings: Settings) -> Iterator[str]:
    """Run `number` of all sizes, as far as it is not there yet; says how each went in a few words.

    One size after another, and of a size all cases within seconds: how long a cache line takes from one virtual core to
    another changes with where the host runs them, and a figure can be compared with its neighbours only.
    """
    for identity in IDENTITIES:
        for case in all_cases:
            path = settings.output / f"{case.name}.json"
            result = results.load(path) or begin(case, settings)
            measurement = next(each for each in result["measurements"] if each["id"] == identity)
            if measurement["status"] == "invalid" or len(measurement["runs"]) > number:
                continue
            kind, size = identity.rsplit("-", 1)
            try:
                said = one_run(case, measurement, kind == "round-trip", int(size), settings)
            except (RunError, OSError, ValueError, KeyError) as error:
                results.invalidate(measurement, f"{type(error).__name__}: {error}")
                said = f"FAILED: {error}"
            results.save(path, result)
            yield f"{case.name} {identity} run {number + 1}: {said}"


def begin(case: RingCase, settings: Settings) -> results.Result:
    """An empty result."""
    package = {"iceoryx2": "iceoryx2", "iceoryx2-python": "iceoryx2", "zeromq": "pyzmq"}.get(case.engine)
    version = environments.version("transports", package) if package else None
    job = {"name": "ring", "engine": case.engine, "engine_version": version, "variant": case.wait, "language": case.language}
    method = {"loop": "closed", "generator": "process", "duration_s": None, "runs": settings.most_runs, "quick": settings.quick}
    result = results.new(job, method, settings.cpus)
    result["measurements"] += [results.new_measurement(identity) for identity in IDENTITIES]
    return result


def one_run(case: RingCase, measurement: dict[str, Any], round_trip: bool, size: int, settings: Settings) -> str:
    """Of one size."""
    count = case.count(round_trip, size)
    cpus = [settings.cpus[0], settings.cpus[-1]]
    kind = "round-trip" if round_trip else "throughput"
    with tempfile.TemporaryDirectory(prefix="ringmill-peers-") as folder:
        if case.language == "rust":
            command = [str(program()), case.engine, case.wait, kind, str(size), str(count), *map(str, cpus)]
            environment: dict[str, str] = {}
        else:
            command = [str(environments.python("transports")), "-m", "peers.engines.messages", case.engine, case.wait]
            command += [kind, str(size), str(count), *map(str, cpus)]
            environment = peer_environment()
        written = measure.output_of(command, environment, Path(folder), TIMEOUT_S)
        said = json.loads(written.strip().splitlines()[-1])
        run_of: dict[str, Any] = {"status": "valid", "invalid_because": [], "rows_in": count, "lost": 0, "latency_ns": {}}
        run_of |= {"achieved_rate": None, "seconds": None}
        if round_trip:
            text = said.get("histogram")
            samples = histogram.decoded(text) if text else histogram.of(np.load(Path(folder, said["nanoseconds"])))
            run_of["latency_ns"]["end_to_end"] = histogram.latency(samples)
            add_samples(measurement, run_of, samples)
            figure = run_of["latency_ns"]["end_to_end"]["p50"]
            return f"p50 {(figure or 0) / 1e3:.2f} µs"
        run_of["achieved_rate"] = said["messages_per_second"]
        run_of["seconds"] = count / said["messages_per_second"]
        measurement["runs"].append(run_of)
        results.summarise(measurement)
        return f"{said['messages_per_second'] / 1e6:.3f} M/s"


def add_samples(measurement: dict[str, Any], run_of: dict[str, Any], samples: Any) -> None:
    """One more run of round trips."""
    measurement["runs"].append(run_of)
    before = measurement["latency_ns"].get("end_to_end", {}).get("histogram")
    whole = histogram.merged([histogram.decoded(before), samples]) if before else samples
    measurement["latency_ns"]["end_to_end"] = histogram.latency(whole, with_samples=True)
    for name in ("p50", "p99"):
        figures = [each["latency_ns"]["end_to_end"][name] for each in measurement["runs"]]
        known = [figure for figure in figures if figure is not None]
        if known:
            measurement["spread_ns"].setdefault("end_to_end", {})[name] = results.spread(known)
