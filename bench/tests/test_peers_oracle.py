"""The oracle agrees with a program that cannot be wrong, and notices every kind of wrong output."""

from dataclasses import replace

import numpy as np
import pytest
from peers import data, oracle

ROWS = 25_000


@pytest.fixture
def expected() -> oracle.Windows:
    return oracle.windows(data.J2, ROWS)


def rows_of(windows: oracle.Windows, rows: data.Integers) -> oracle.Windows:
    return oracle.Windows(windows.window[rows], windows.device[rows], windows.average[rows], windows.score[rows])


def test_windows_are_those_of_a_dictionary(expected: oracle.Windows) -> None:
    groups: dict[tuple[int, int], list[float]] = {}
    for chunk in data.readings(data.J2, ROWS):
        for device, timestamp, temperature in zip(chunk.device, chunk.timestamp, chunk.temperature, strict=True):
            groups.setdefault((int(timestamp) // 1000 * 1000, int(device)), []).append(float(temperature))
    assert sorted(groups) == list(zip(expected.window.tolist(), expected.device.tolist(), strict=True))
    averages = [float(np.mean(groups[key])) for key in sorted(groups)]
    assert np.allclose(expected.average, averages)
    assert np.allclose(expected.score, (np.array(averages) - 20.0) / 2.5)


def test_the_order_of_results_does_not_matter(expected: oracle.Windows) -> None:
    order = np.random.default_rng(0).permutation(len(expected))
    assert oracle.differences(expected, rows_of(expected, order)) == []


@pytest.mark.parametrize("column", ["window", "device", "average", "score"])
def test_one_wrong_value_is_noticed(expected: oracle.Windows, column: str) -> None:
    wrong = getattr(expected, column).copy()
    wrong[17] += 1
    assert oracle.differences(expected, replace(expected, **{column: wrong}))


def test_a_missing_result_is_noticed(expected: oracle.Windows) -> None:
    assert oracle.differences(expected, rows_of(expected, np.arange(1, len(expected))))


def test_a_digest_goes_round_the_values_and_notices_swapped_rows() -> None:
    values = data.values(4 * oracle.BATCH_ROWS)
    again = np.concatenate([values, values])[: 6 * oracle.BATCH_ROWS]
    direct = sum(oracle.zscore(batch) @ oracle.WEIGHTS for batch in again.reshape(-1, oracle.BATCH_ROWS))
    digest = oracle.digest(values, len(again))
    assert oracle.digest_differences(digest, float(direct), len(again), len(again)) == []
    swapped = values.copy()
    swapped[[0, 1000]] = swapped[[1000, 0]]
    assert oracle.digest_differences(digest, oracle.digest(swapped, len(again)), len(again), len(again))
    assert oracle.digest_differences(digest, digest, len(again), len(again) - 1)


def test_scores_are_compared_over_the_batches_that_there_were() -> None:
    values = data.values(10)
    lengths = np.array([4] * 4 + [6] * 6)
    scores = np.concatenate([oracle.zscore(values[:4]), oracle.zscore(values[4:])])
    assert oracle.batched_differences(values, scores, lengths) == []
    assert oracle.batched_differences(values, oracle.zscore(values), lengths)
    assert oracle.batched_differences(values, scores, np.array([4] * 5 + [6] * 5))
    assert oracle.batched_differences(values[:9], scores, lengths)
