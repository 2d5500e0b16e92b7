"""The flights job forecasts what the same river model forecasts without Ringmill."""

import gzip

import compare
import export
from jobs import Example, Start

FIRST_MONTHS = 60_000


def test_forecasts_equal_those_of_the_model_without_ringmill(example: Example, run: Start) -> None:
    folder = example("flights")
    data = folder / "flights.ndjson.gz"
    assert export.export(data) == 328_521
    with gzip.open(data, "rt", encoding="utf-8") as file:
        lines = [line for line, _ in zip(file, range(FIRST_MONTHS), strict=False)]
    with gzip.open(data, "wt", encoding="utf-8") as file:
        file.writelines(lines)

    job = run(folder)
    expected, error, error_of_rule = compare.without_ringmill(data)
    assert compare.of_ringmill(folder / "forecasts.ndjson") == expected
    assert error < error_of_rule
    assert job.report["rows"]["in"] == FIRST_MONTHS
    assert job.report["rows"]["late"] == job.report["rows"]["dead_letters"] == 0
