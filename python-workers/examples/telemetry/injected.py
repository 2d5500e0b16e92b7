"""Holds the alerts of the telemetry job against the anomalies that its generator injected.

The generator's rows are pure functions of its settings and the row number (rust-core/connect/src/generator): row `i`
is report `i // keys` of device `i % keys`, and a counter-based hash says whether it is an anomaly. This module
computes them anew, so it knows every injected anomaly without having seen a single row.

    python injected.py ALERTS.ndjson [--keys N] [--rows N] [--seed N] [--anomaly-rate P] [--alerts-only]
"""

import argparse
import json
import tomllib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

HERE = Path(__file__).parent
SECONDS_PER_WINDOW = 10
HISTORY = 3
"""Windows that a device needs behind it before pipeline.toml lets an alert pass."""
CHUNK = 1 << 20

Window = tuple[int, int]
"""Device number and window number, both counted from 0."""
Words = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Stream:
    """The settings of the generator that decide which rows are anomalies."""

    keys: int
    rows: int
    seed: int
    anomaly_rate: float

    def is_anomaly(self, row: Words) -> npt.NDArray[np.bool_]:
        """Whether each of these rows is an injected anomaly."""
        seed = mix(np.array([self.seed ^ 0x5851F42D4C957F2D], np.uint64))
        below = np.uint64(min(int(self.anomaly_rate * 2.0**64), 2**64 - 1))
        bits = mix(seed + row * np.uint64(0x9E3779B97F4A7C15))
        return bits * np.uint64(0xAF251AF3B0F025B5) < below

    def anomalous_windows(self) -> set[Window]:
        """All windows that hold at least one injected anomaly; every device reports once a second."""
        windows = set()
        for first in range(0, self.rows, CHUNK):
            row = np.arange(first, min(first + CHUNK, self.rows), dtype=np.uint64)
            for anomaly in row[self.is_anomaly(row)].tolist():
                windows.add((anomaly % self.keys, anomaly // self.keys // SECONDS_PER_WINDOW))
        return windows

    def holds_anomaly(self, window: Window) -> bool:
        """Whether one window holds an injected anomaly."""
        device, number = window
        report = np.arange(number * SECONDS_PER_WINDOW, (number + 1) * SECONDS_PER_WINDOW, dtype=np.uint64)
        return bool(self.is_anomaly(report * np.uint64(self.keys) + np.uint64(device)).any())


def mix(z: Words) -> Words:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014); products wrap around at 64 bits."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@dataclass(frozen=True)
class Verdict:
    """How the alerts compare with what was injected; all counts are of windows."""

    injected: int
    without_history: int
    found: int
    false: int

    def __str__(self) -> str:
        findable = self.injected - self.without_history
        share = 100 * self.found / findable if findable else 100.0
        return (
            f"injected anomalies: {self.injected:,} windows hold one, {self.without_history:,} of them too early to "
            f"have {HISTORY} windows of history\n"
            f"found:              {self.found:,} of {findable:,} ({share:.1f} %), {self.false:,} false alerts"
        )


def judge(stream: Stream, alerts: set[Window]) -> Verdict:
    """Compares alerts with the injected anomalies of the whole stream."""
    injected = stream.anomalous_windows()
    early = {window for window in injected if window[1] < HISTORY}
    return Verdict(len(injected), len(early), len(alerts & injected), len(alerts - injected))


def read_alerts(path: Path, start: datetime) -> set[Window]:
    """The windows for which there is an alert; a second alert for one window is an error."""
    alerts = set()
    for line in path.read_text(encoding="utf-8").splitlines():
        alert = json.loads(line)
        since_start = datetime.fromisoformat(alert["window_start"]) - start
        window = (int(alert["device_id"].removeprefix("sensor-")), int(since_start.total_seconds()) // SECONDS_PER_WINDOW)
        if window in alerts:
            raise ValueError(f"there are two alerts for {alert['device_id']} at {alert['window_start']}")
        alerts.add(window)
    return alerts


def main() -> None:
    sensors = tomllib.loads((HERE / "pipeline.toml").read_text(encoding="utf-8"))["sources"]["sensors"]
    parser = argparse.ArgumentParser(description="Counts the injected anomalies that the telemetry job found.")
    parser.add_argument("alerts", type=Path)
    parser.add_argument("--keys", type=int, default=sensors["keys"])
    parser.add_argument("--rows", type=int, default=sensors["rows"])
    parser.add_argument("--seed", type=int, default=sensors.get("seed", 0))
    parser.add_argument("--anomaly-rate", type=float, default=sensors["anomaly_rate"])
    parser.add_argument("--alerts-only", action="store_true", help="the run was cut short: check what it found, no more")
    arguments = parser.parse_args()
    stream = Stream(arguments.keys, arguments.rows, arguments.seed, arguments.anomaly_rate)
    alerts = read_alerts(arguments.alerts, sensors["start"])
    if arguments.alerts_only:
        true = sum(map(stream.holds_anomaly, alerts))
        print(f"found: {true:,} windows with an injected anomaly, {len(alerts) - true:,} false alerts")
    else:
        print(judge(stream, alerts))


if __name__ == "__main__":
    main()
