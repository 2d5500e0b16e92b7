"""The case as a whole, with kills, and what its demo would say of results and alerts that are not what they should be."""

import io
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from demo import Verdict
from duty import Alert, Duty
from fastavro import schemaless_writer
from results import Results
from score import anomaly_score
from sensors import HISTORY, City, name, schema

CITY = City(sensors=1_000, window=10.0, reports=2, anomaly_rate=0.05)
START = 1_800_000_000.0
WINDOWS = 6


def test_nothing_is_lost_or_repeated_when_workers_and_cores_are_killed(tmp_path: Path) -> None:
    size = ["--sensors", "2000", "--windows", "6", "--window", "1", "--reports", "2", "--anomaly-rate", "0.002"]
    demo = [sys.executable, str(Path(__file__).parent / "demo.py"), *size, "--chaos", "--folder", str(tmp_path / "run")]
    done = subprocess.run(demo, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "results: 12,000 of 12,000 windows, 0 missing, 0 wrong" in done.stdout
    assert "killed the worker" in done.stdout
    assert "killed the core" in done.stdout
    assert "kept:    6 windows" in done.stdout


def test_a_score_counts_deviations_above_the_usual_peak() -> None:
    score = anomaly_score(np.array([26.0, 22.0, 22.0]), np.array([22.0, 22.0, np.nan]), np.array([2.0, 0.0, np.nan]))
    np.testing.assert_array_equal(score, [2.0, 0.0, np.nan])


def at(window: int) -> str:
    return datetime.fromtimestamp(START + window * CITY.window, UTC).isoformat()


def result(window: int, sensor: int, **changed: float) -> bytes:
    readings = CITY.readings(window)[:, sensor]
    start = datetime.fromtimestamp(START + window * CITY.window, UTC)
    row = {"device_id": name(sensor), "window_start": start, "window_end": start, "readings": 2, "average": readings.mean()}
    row |= {"peak": readings.max(), "mean": 0.0, "std": 0.0, "count": 0, "score": 0.0}
    message = io.BytesIO()
    schemaless_writer(message, schema("result"), row | changed)
    return message.getvalue()


@pytest.fixture(scope="module")
def right() -> list[bytes]:
    return [result(window, sensor) for window in range(2) for sensor in range(CITY.sensors)]


@pytest.mark.parametrize(
    ("change", "missing", "wrong", "repeated"),
    [
        (lambda rows: rows, 0, 0, 0),
        (lambda rows: rows[:-3], 3, 0, 0),
        (lambda rows: [*rows, rows[5], rows[5]], 0, 0, 2),
        (lambda rows: [result(0, 0, readings=1), *rows[1:]], 1, 1, 0),
        (lambda rows: [result(0, 0, peak=123.0), *rows[1:]], 1, 1, 0),
        (lambda rows: [*rows, result(2, 7)], 0, 1, 0),
    ],
)  # fmt: skip
def test_results_are_held_against_the_readings(right, change, missing: int, wrong: int, repeated: int) -> None:  # type: ignore[no-untyped-def]
    results = Results(CITY, START, windows=2)
    for row in change(right):
        results.take(row)
    assert (results.missing, results.wrong, results.repeated) == (missing, wrong, repeated)


def test_alerts_are_held_against_the_anomalies() -> None:
    hot = [(window, int(sensor)) for window in range(WINDOWS) for sensor in np.flatnonzero(CITY.is_unusual(window))]
    assert len(hot) > 10
    assert min(window for window, _ in hot) == HISTORY
    alerts = [Alert({"device_id": name(sensor), "window_start": at(window)}, START) for window, sensor in hot]

    def counts(alerts: list[Alert]) -> tuple[int, int]:
        _, missing, extra = Verdict(Results(CITY, START, WINDOWS), Duty(alerts), CITY, START).alerts()
        return missing, extra

    assert counts(alerts) == (0, 0)
    assert counts(alerts[1:]) == (1, 0)
    assert counts([*alerts, alerts[0]]) == (0, 1), "an alert that is posted twice is one too many"
    assert counts([*alerts[1:], Alert(alerts[0].row | {"window_start": at(0)}, START)]) == (1, 1)


def test_an_alert_that_comes_again_is_not_taken_again() -> None:
    duty = Duty()
    for device in ["a", "b", "a"]:
        for window in range(2):
            duty.take(json.dumps({"device_id": device, "window_start": at(window)}).encode())
    assert [alert.row["device_id"] for alert in duty.alerts] == ["a", "a", "b", "b"]
    assert duty.repeated == 2
