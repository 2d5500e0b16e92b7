"""What every engine has to give: each job as a batch program in plain NumPy, and the comparison with what came out."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .data import DEVIATION, MEAN, START_MS, Floats, Integers, Readings, Stream, readings

BATCH_ROWS = 1024
WINDOW_MS = 1000
WEIGHTS: Floats = (np.arange(BATCH_ROWS) + 1) / BATCH_ROWS
"""By place in the batch, so that a digest tells whether rows changed places."""
TOLERANCE = 1e-9


@dataclass(frozen=True)
class Windows:
    """Results of J2 and J4, by window and then by device."""

    window: Integers
    """Start, milliseconds since 1970."""
    device: Integers
    average: Floats
    score: Floats

    def __len__(self) -> int:
        return len(self.window)

    def ordered(self) -> "Windows":
        """The same rows by window and device."""
        order = np.lexsort((self.device, self.window))
        return Windows(self.window[order], self.device[order], self.average[order], self.score[order])


def score(average: Floats) -> Floats:
    """The function on the windows' results (J2, J4)."""
    return (average - MEAN) / DEVIATION


def zscore(values: Floats) -> Floats:
    """The function on every event (J1, J3), over a batch."""
    result: Floats = (values - values.mean()) / values.std()
    return result


def windows(stream: Stream, rows: int) -> Windows:
    """Average temperature of each device in each second of event time, and its score."""
    seconds = (rows - 1) * 1000 // stream.rows_per_second // WINDOW_MS + 1
    sums = np.zeros(seconds * stream.keys)
    counts = np.zeros(seconds * stream.keys, dtype=np.int64)
    for chunk in readings(stream, rows):
        cell = cells(stream, chunk)
        first, last = int(cell.min()), int(cell.max()) + 1
        sums[first:last] += np.bincount(cell - first, weights=chunk.temperature)
        counts[first:last] += np.bincount(cell - first)
    filled = np.flatnonzero(counts)
    average = sums[filled] / counts[filled]
    return Windows(START_MS + filled // stream.keys * WINDOW_MS, filled % stream.keys, average, score(average))


def cells(stream: Stream, chunk: Readings) -> Integers:
    """Window and device of each row as one number."""
    cell: Integers = (chunk.timestamp - START_MS) // WINDOW_MS * stream.keys + chunk.device
    return cell


def differences(expected: Windows, actual: Windows) -> list[str]:
    """What is wrong with a result, in sentences; empty when nothing is."""
    if len(expected) != len(actual):
        return [f"{len(actual)} results instead of {len(expected)}"]
    actual = actual.ordered()
    wrong = np.flatnonzero((expected.window != actual.window) | (expected.device != actual.device))
    if len(wrong):
        at = wrong[0]
        return [
            f"result {at} is of window {actual.window[at]} and device {actual.device[at]} instead of "
            f"window {expected.window[at]} and device {expected.device[at]}"
        ]
    problems = []
    for name in ("average", "score"):
        want, got = getattr(expected, name), getattr(actual, name)
        wrong = np.flatnonzero(~np.isclose(want, got, rtol=TOLERANCE, atol=TOLERANCE))
        if len(wrong):
            problems.append(
                f"{len(wrong)} of {len(want)} {name}s are wrong, the first {got[wrong[0]]} instead of {want[wrong[0]]}"
            )
    return problems


def digest(values: Floats, rows: int, function: Callable[[Floats], Floats] = zscore) -> float:
    """Sum of the weighted results of the first `rows` rows, when batches of 1,024 go round the values again and again.

    With `score` for the function it is that of engines that choose their own batches.
    """
    batches = [function(batch) @ WEIGHTS for batch in values.reshape(-1, BATCH_ROWS)]
    rounds, rest = divmod(rows // BATCH_ROWS, len(batches))
    return float(rounds * np.sum(batches) + np.sum(batches[:rest]))


def digest_differences(expected: float, actual: float, rows: int, rows_seen: int) -> list[str]:
    """As `differences`, for digests."""
    if rows != rows_seen:
        return [f"{rows_seen} rows instead of {rows}"]
    # The sum of many terms that nearly cancel: judged by the size of the terms.
    if abs(expected - actual) > 1e-9 * max(rows, 1):
        return [f"digest {actual!r} instead of {expected!r}"]
    return []


def batched_differences(values: Floats, scores: Floats, batch_rows: Integers) -> list[str]:
    """For results that say of each row how long its batch was: z-scores over exactly these batches."""
    if not len(values) == len(scores) == len(batch_rows):
        return [f"{len(scores)} rows instead of {len(values)}"]
    first = 0
    while first < len(values):
        count = int(batch_rows[first])
        last = first + count
        if count < 1 or last > len(values) or not (batch_rows[first:last] == count).all():
            return [f"row {first} says that its batch has {count} rows, others of that batch do not"]
        if count > 1 and not np.allclose(zscore(values[first:last]), scores[first:last], rtol=TOLERANCE, atol=TOLERANCE):
            return [f"the scores of rows {first} to {last - 1} are wrong"]
        first = last
    return []
