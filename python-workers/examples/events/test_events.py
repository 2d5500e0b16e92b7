"""Each type of events goes its own way, and an event of no declared type is kept with the reason."""

from pathlib import Path

import pytest
from jobs import Example, Start


def test_each_type_goes_its_own_way(example: Example, run: Start) -> None:
    job = run(example("events"))
    minutes = sorted(
        (row["customer"], row["window_start"], row["orders"], row["quantity"]) for row in job.rows("demand_by_customer.ndjson")
    )
    assert minutes == [
        ("Ada", "2026-03-02T09:00:00.000Z", 2, 14),
        ("Ben", "2026-03-02T09:00:00.000Z", 1, 1),
        ("Ben", "2026-03-02T09:01:00.000Z", 1, 2),
    ]
    charged = [(row["order"], row["venue"], row["fee"]) for row in job.rows("charged.ndjson")]
    assert charged == [(1, None, pytest.approx(0.205)), (2, "XETR", 0.01)]


def test_strangers_are_kept_with_the_reason(example: Example, run: Start) -> None:
    job = run(example("events"))
    refund, silent = job.rows("strangers.ndjson")
    assert refund["reason"] == 'no type is declared for "refund" (field "kind"); there are order, trade'
    assert silent["reason"] == 'field "kind" does not say its type'


def test_a_type_that_is_declared_later_is_no_stranger(example: Example, run: Start) -> None:
    folder: Path = example("events")
    job = run(folder, 'sources.events.types.refund.fields={ order = "int64" }')
    assert [row["record"] for row in job.rows("strangers.ndjson")] == ['{"placed":"2026-03-02T09:01:10Z","customer":"Cy"}']
