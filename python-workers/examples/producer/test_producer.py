"""The producer is killed and started again, and each row of its log comes once."""

import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
from jobs import Example, Run, Start


def test_a_producer_that_is_started_again_sends_what_is_missing(
    example: Example, run: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = example("producer")
    readings = np.zeros(100_000, [("sensor", "i4"), ("celsius", "f8")])
    readings["celsius"] = np.arange(100_000) % 40
    np.save(folder / "readings.npy", readings)
    # Not in the test's own folder: the path of a socket has room for 107 bytes.
    runtime = tempfile.TemporaryDirectory()
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime.name)
    runs: list[Run] = []
    pipeline = threading.Thread(target=lambda: runs.append(run(folder, "sources.readings.rate=50_000")), daemon=True)
    pipeline.start()
    first = start(folder)
    hot = folder / "hot.ndjson"
    while not (hot.exists() and hot.stat().st_size > 0):
        assert first.poll() is None, "it ended before it had sent everything"
    first.kill()
    first.wait()
    assert start(folder).wait() == 0
    pipeline.join()
    assert runs[0].report["rows"]["in"] == 100_000
    assert [row["celsius"] for row in runs[0].rows("hot.ndjson")] == list(readings["celsius"][readings["celsius"] > 30])


def start(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "producer.py"], cwd=folder)
