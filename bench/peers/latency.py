"""How soon a live engine answers: lines to its input (or to a socket) by a fixed schedule, results from its output.

The loop is open: event i has an intended time, start + i / rate, and its timestamp says the same, so that event time
and wall time go alike. A window's results are as late as they come after the intended time of the first event beyond the
window, whether the producer, a full pipe or the engine held that event up.

Before the schedule starts, two windows go in at once, and their first result is waited for: no start-up is in the figures.
"""

import contextlib
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .data import MEAN, START_MS, Integers

KEYS = 1000
WARMUP_S = 2
"""Whole windows that are not counted."""
SCHEDULE_MS = START_MS + 100_000
"""Event time of the schedule's start: far behind that of the first two windows, so that no clock has passed it."""
TICK_S = 0.001
GRACE_S = 2.0
RESULT = re.compile(rb"sensor-(\d+)\W+(\d{13}|\d{4}-\d\d-\d\dT[\d:.]+Z)")
NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:E-?\d+)?", re.IGNORECASE)


@dataclass(frozen=True)
class Latencies:
    """Of one run."""

    nanoseconds: Integers
    """Of each result."""
    expected: int
    """Results that there should be."""
    problems: list[str]
    events: int
    seconds: float
    lag_ns: Integers
    """Of the producer, for each tick: how late it wrote."""


def lines(rate: int, first: int, count: int, base_ms: int) -> bytes:
    """Events first … first + count - 1 of a schedule."""
    random = np.random.default_rng([first, count, rate])
    devices = random.integers(0, KEYS, count).tolist()
    temperatures = (np.rint(random.normal(MEAN, 2.5, count) * 100) / 100).tolist()
    times = (base_ms + np.arange(first, first + count, dtype=np.int64) * 1000 // rate).tolist()
    columns = zip(devices, times, temperatures, strict=True)
    return "".join(f"sensor-{device:06},{time_ms},{temperature}\n" for device, time_ms, temperature in columns).encode()


def produce(output: int, rate: int, seconds: int, start_ns: int) -> Any:
    """Writes by the schedule, which starts at `start_ns` of the monotonic clock; returns the lag of each tick."""
    per_tick = max(1, int(rate * TICK_S))
    ticks = rate * seconds // per_tick
    events = [lines(rate, tick * per_tick, per_tick, SCHEDULE_MS) for tick in range(ticks)]
    lag = np.zeros(ticks, dtype=np.int64)
    if start_ns == 0:
        # The other side is told to wait until all is ready.
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        start_ns = int(sys.stdin.readline())
    for tick, text in enumerate(events):
        # A tick's events are due one by one; they are written when the last of them is, never before.
        due = start_ns + ((tick + 1) * per_tick - 1) * 1_000_000_000 // rate
        while (now := time.monotonic_ns()) < due:
            time.sleep(max(0.0, (due - now) / 1e9))
        view = memoryview(text)
        while view:
            view = view[os.write(output, view) :]
        lag[tick] = time.monotonic_ns() - due
    return lag


class Engine:
    """A live one, with the ends of its input and output."""

    def __init__(
        self, command: list[str], cpus: list[int], environment: dict[str, str], folder: Path, by_socket: bool, header: bytes = b""
    ) -> None:
        pinned = ["taskset", "--cpu-list", ",".join(map(str, cpus)), *command]
        server = socket.create_server(("localhost", 0)) if by_socket else None
        extra = {"PEERS_PORT": str(server.getsockname()[1])} if server else {}
        self.errors = (folder / "errors.txt").open("w+b")
        self.header = header
        self.process = subprocess.Popen(
            pinned,
            cwd=folder,
            env=os.environ | environment | extra,
            stdin=subprocess.DEVNULL if server else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            start_new_session=True,
        )
        if server:
            server.settimeout(120)
            self.connection: socket.socket | None = server.accept()[0]
            self.input = self.connection.fileno()
            server.close()
        else:
            self.connection = None
            assert self.process.stdin
            self.input = self.process.stdin.fileno()
        assert self.process.stdout
        self.output = self.process.stdout.fileno()
        os.set_blocking(self.output, False)
        self.read: list[tuple[int, bytes]] = []
        """When, and what."""
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.output, selectors.EVENT_READ)

    def collect(self, seconds: float) -> bool:
        """Reads what comes within the time; True if anything came."""
        if not self.selector.select(seconds):
            return False
        try:
            text = os.read(self.output, 1 << 20)
        except BlockingIOError:
            return False
        if not text:
            raise EOFError(f"the engine ended: {self.last_words()}")
        self.read.append((time.monotonic_ns(), text))
        return True

    def last_words(self) -> str:
        """The end of its standard error."""
        self.errors.seek(0)
        return " | ".join(self.errors.read().decode(errors="replace").strip().splitlines()[-5:])

    def end(self) -> None:
        """Kills it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if self.connection:
            self.connection.close()
        self.errors.close()


def measure(engine: Engine, rate: int, seconds: int, cpus: list[int]) -> Latencies:
    """One run of `seconds` whole windows after those of warming up.

    Raises:
        EOFError: the engine ended.
        TimeoutError: nothing came.
    """
    whole = seconds + WARMUP_S + 1  # the last window does not close
    arguments = [sys.executable, "-m", "peers.latency", str(engine.input), str(rate), str(whole)]
    producer = subprocess.Popen(
        ["taskset", "--cpu-list", ",".join(map(str, cpus)), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=[engine.input],
        text=True,
    )
    assert producer.stdin
    assert producer.stdout
    try:
        producer.stdout.readline()
        prime(engine)
        engine.read.clear()
        start_ns = time.monotonic_ns() + 200_000_000
        producer.stdin.write(f"{start_ns}\n")
        producer.stdin.flush()
        until = start_ns + int((whole + GRACE_S) * 1e9)
        while (now := time.monotonic_ns()) < until:
            engine.collect(min(0.5, (until - now) / 1e9))
        producer.stdin.close()
        lag = np.array(producer.stdout.read().split(), dtype=np.int64)
        producer.wait(60)
    finally:
        producer.kill()
        producer.wait()
    return judge(engine, rate, seconds, start_ns, lag)


def prime(engine: Engine) -> None:
    """Two windows at once, until the first result has come."""
    text = memoryview(engine.header + lines(10_000, 0, 25_000, START_MS))
    os.set_blocking(engine.input, False)
    until = time.monotonic() + 120
    while not any(RESULT.search(read) for _, read in engine.read):
        if time.monotonic() > until:
            raise TimeoutError(f"no result within two minutes: {engine.last_words()}")
        with contextlib.suppress(BlockingIOError):
            text = text[os.write(engine.input, text) :] if text else text
        engine.collect(0.05)
    os.set_blocking(engine.input, True)
    while text:
        text = text[os.write(engine.input, text) :]
    while engine.collect(0.3):
        pass


def expected_averages(rate: int, windows: range) -> dict[tuple[int, int], float]:
    """By window (seconds since the schedule's start) and device."""
    per_tick = max(1, int(rate * TICK_S))
    averages: dict[tuple[int, int], float] = {}
    for window in windows:
        sums, counts = np.zeros(KEYS), np.zeros(KEYS)
        for tick in range(window * rate // per_tick, (window + 1) * rate // per_tick):
            random = np.random.default_rng([tick * per_tick, per_tick, rate])
            devices = random.integers(0, KEYS, per_tick)
            temperatures = np.rint(random.normal(MEAN, 2.5, per_tick) * 100) / 100
            sums += np.bincount(devices, temperatures, KEYS)
            counts += np.bincount(devices, minlength=KEYS)
        for device in np.flatnonzero(counts):
            averages[window, int(device)] = sums[device] / counts[device]
    return averages


def judge(engine: Engine, rate: int, seconds: int, start_ns: int, lag: Integers) -> Latencies:
    """What came, against what should have."""
    expected = expected_averages(rate, range(WARMUP_S, WARMUP_S + seconds))
    found: list[int] = []
    wrong = twice = 0
    missing = set(expected)
    rest = b""
    for at_ns, text in engine.read:
        *whole, rest = (rest + text).split(b"\n")
        for line in whole:
            result = parse(line)
            if result is None or result[0] not in expected:
                continue
            key, average = result
            if key not in missing:
                twice += 1
                continue
            missing.discard(key)
            wrong += abs(average - expected[key]) > 1e-6
            found.append(at_ns - start_ns - (key[0] + 1) * 1_000_000_000)
    problems = []
    if missing:
        problems.append(f"{len(missing)} of {len(expected)} results did not come")
    if wrong:
        problems.append(f"{wrong} of {len(expected)} averages are wrong")
    if twice:
        problems.append(f"{twice} results came more than once")
    ticks = rate * (seconds + WARMUP_S + 1) // max(1, int(rate * TICK_S))
    if len(lag) < ticks:
        problems.append("the schedule was not kept: the engine took fewer events than were due")
    events = len(lag) * max(1, int(rate * TICK_S))
    return Latencies(np.array(found, dtype=np.int64), len(expected), problems, events, seconds + WARMUP_S + 1, lag)


def parse(line: bytes) -> tuple[tuple[int, int], float] | None:
    """A result: window (seconds since the schedule's start) and device, average."""
    found = RESULT.search(line)
    if not found:
        return None
    device, window = int(found[1]), found[2]
    written_out = window[4:5] == b"-"
    window_ms = int(np.datetime64(window[:-1].decode(), "ms").astype(np.int64)) if written_out else int(window)
    numbers = NUMBER.findall(line[found.end() :])
    return ((window_ms - SCHEDULE_MS) // 1000, device), float(numbers[-2])


def main() -> None:
    """The producer's process."""
    lag = produce(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), 0)
    sys.stdout.write("\n".join(map(str, lag.tolist())))


if __name__ == "__main__":
    main()
