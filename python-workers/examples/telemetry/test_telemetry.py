"""The telemetry job finds the anomalies that its generator injected, and nothing else."""

import tomllib

import numpy as np
from anomaly import anomaly_score
from injected import Stream, judge, read_alerts
from jobs import Example, Start

KEYS, WINDOWS = 2_000, 20
ROWS = KEYS * 10 * WINDOWS
ANOMALY_RATE = 1e-4
SMALL = (f"sources.sensors.keys={KEYS}", f"sources.sensors.rows={ROWS}")


def test_score_counts_deviations_above_the_usual_peak() -> None:
    score = anomaly_score(np.array([23.0, 22.0, 22.0]), np.array([22.0, 22.0, np.nan]), np.array([0.5, 0.0, np.nan]))
    np.testing.assert_array_equal(score, [2.0, 0.0, np.nan])


def test_alerts_are_the_injected_anomalies(example: Example, run: Start) -> None:
    folder = example("telemetry")
    job = run(folder, *SMALL, f"sources.sensors.anomaly_rate={ANOMALY_RATE}")
    start = tomllib.loads((folder / "pipeline.toml").read_text(encoding="utf-8"))["sources"]["sensors"]["start"]
    alerts = read_alerts(folder / "alerts.ndjson", start)
    verdict = judge(Stream(KEYS, ROWS, 0, ANOMALY_RATE), alerts)

    assert verdict.false == 0
    assert verdict.injected > 20
    assert verdict.found == verdict.injected - verdict.without_history
    assert job.report["rows"]["in"] == ROWS
    assert job.report["rows"]["late"] == 0
    assert job.report["rows"]["dead_letters"] == 0
    assert job.report["rows"]["out"] == {"alerts": len(alerts)}


def test_alerts_do_not_depend_on_shards_workers_and_batches(example: Example, run: Start) -> None:
    def alerts(*settings: str) -> list[str]:
        folder = example("telemetry")
        run(folder, *SMALL, "sources.sensors.anomaly_rate=0.001", *settings)
        return sorted((folder / "alerts.ndjson").read_text(encoding="utf-8").splitlines())

    expected = alerts("pipeline.shards=1")
    assert len(expected) > 100
    assert alerts("pipeline.shards=3") == expected
    assert alerts("pipeline.shards=2", "steps.scores.workers=2", "steps.scores.batch_rows=7") == expected
