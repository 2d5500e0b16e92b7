"""The smallest job gives the means of its readings, and keeps what it could not read."""

import json

from jobs import Example, Start


def test_minutes_are_converted_and_the_broken_reading_is_kept(example: Example, run: Start) -> None:
    job = run(example("hello"))
    minutes = sorted(
        (row["station"], row["window_start"], row["fahrenheit"], row["readings"])
        for row in map(json.loads, job.stdout.splitlines())
    )
    assert minutes == [
        ("Cairo", "2026-01-05T08:00:00Z", 19.0 * 9 / 5 + 32, 2),
        ("Cairo", "2026-01-05T08:01:00Z", 20.0 * 9 / 5 + 32, 1),
        ("Oslo", "2026-01-05T08:00:00Z", -4.0 * 9 / 5 + 32, 3),
        ("Oslo", "2026-01-05T08:01:00Z", -7.0 * 9 / 5 + 32, 1),
    ]
    [broken] = job.rows("broken.ndjson")
    assert json.loads(broken["record"])["celsius"] == "cold"
    assert job.report["rows"] == {"in": 8, "late": 0, "dead_letters": 1, "out": {"broken": 1, "report": 4}}
