"""What a class `rm.Sink` is given, how it is checked, and how it is fed in a test."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import ringmill as rm
from ringmill import testing
from ringmill.describe import describe
from ringmill.sink import check_sink
from ringmill.sink_worker import Rejected, Taker, _failure


class Gathers(rm.Sink):
    """Keeps what it is given where a test can see it."""

    given: list[Any]

    def __init__(self, given: list[Any]) -> None:
        self.given = given

    def setup(self) -> None:
        self.given.append("setup")

    def write(self, batch: rm.Batch) -> None:
        self.given.append(batch)

    def close(self) -> None:
        self.given.append("close")


def test_rows_come_in_batches_between_setup_and_close_and_keep_their_identities() -> None:
    given: list[Any] = []
    columns = {"number": np.arange(10), "text": [str(number) for number in range(10)]}
    testing.deliver(Gathers, columns, options={"given": given}, rows_max=4, row_id="a/7")
    assert (given[0], given[-1]) == ("setup", "close")
    batches = given[1:-1]
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert [batch.id for batch in batches] == ["a/7"] * 3
    numbers = [batch.row_numbers for batch in batches]
    assert {array.dtype for array in numbers} == {np.dtype(np.uint64)}
    assert np.concatenate(numbers).tolist() == list(range(10))
    assert [text for batch in batches for text in batch["text"]] == columns["text"]
    assert not batches[0]["number"].flags.writeable


def test_types_are_those_of_the_schema_and_nulls_are_masked() -> None:
    given: list[Any] = []
    schema = {"value": rm.nullable(rm.float64)}
    testing.deliver(Gathers, {"value": np.ma.array([1.5, 0.0], mask=[False, True])}, schema=schema, options={"given": given})
    value = given[1]["value"]
    assert (value.dtype, value.mask.tolist()) == (np.dtype(np.float64), [False, True])


def test_no_rows_are_no_batch() -> None:
    given: list[Any] = []
    testing.deliver(Gathers, {"value": np.zeros(0)}, options={"given": given})
    assert given == ["setup", "close"]


def test_a_batch_of_a_function_has_no_identity() -> None:
    batch = testing.batch({"x": [1.0, 2.0]})
    assert batch.id == ""
    assert batch.row_numbers.tolist() == [0, 1]


class Silent(rm.Sink):
    pass


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        (Silent, {}, r"sink Silent has no write\(self, batch\)"),
        (print, {}, "m:name is not a sink: derive a class from rm.Sink"),
        (rm.Source, {}, "m:name is not a sink"),
        (Gathers, {}, "sink Gathers does not take these options: missing a required argument: 'given'"),
        (Gathers, {"given": [], "more": 1}, "sink Gathers does not take these options: .*'more'"),
    ],
)
def test_what_is_no_sink_is_refused(target: object, options: dict[str, Any], message: str) -> None:
    with pytest.raises(rm.LoadError, match=message):
        check_sink(target, "m:name", options)


def test_a_write_that_returns_something_is_told_so() -> None:
    class Returns(rm.Sink):
        def write(self, batch: rm.Batch) -> int:  # type: ignore[override]
            return len(batch)

    take = Taker(Returns())
    with pytest.raises(rm.OutputError, match=r"sink Returns: write\(\): expected None, got int 2"):
        take(testing.batch({"x": [1.0, 2.0]}))
    assert Taker(Gathers([]))(testing.batch({"x": [1.0]})) == {}


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
def test_a_write_that_would_have_to_be_awaited_is_refused_in_a_test_too() -> None:
    class Awaits(rm.Sink):
        async def write(self, batch: rm.Batch) -> None:  # type: ignore[override]
            pass

    with pytest.raises(rm.OutputError, match=r"sink Awaits: write\(\): expected None, got coroutine"):
        testing.deliver(Awaits, {"x": [1.0]})


def test_a_retry_is_told_apart_from_a_mistake() -> None:
    told = json.loads(_failure(rm.Retry("the server is away"), 4096))
    assert (told["error"], told["is_retry"]) == ("the server is away", True)
    assert json.loads(_failure(rm.Retry(), 4096))["error"] == "rm.Retry"
    # A name of a file that is not UTF-8: the core's JSON has no lone surrogates.
    told = json.loads(_failure(rm.Retry("\udcff is away"), 4096))
    assert (told["error"], told["is_retry"]) == ("\\udcff is away", True)
    told = json.loads(_failure(ValueError("no"), 4096))
    assert told["error"] == "ValueError: no"
    assert "is_retry" not in told


def test_a_sink_is_described_by_its_name() -> None:
    answer = describe("out", f"{__name__}:Gathers", ".", "sink", {"given": []})
    assert answer == {"step": "out", "ok": True, "name": "Gathers"}
    answer = describe("out", f"{__name__}:Gather", ".", "sink")
    assert answer["ok"] is False
    assert "did you mean 'Gathers'?" in answer["error"]


class Rejects(rm.Sink):
    """Rejects what it is told to."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def write(self, batch: rm.Batch) -> None:
        raise rm.Reject(self.rows(batch) if callable(self.rows) else self.rows, "not these")


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([1, 0, 1], {0, 1, 4, 5, 8, 9}),
        (1, {1, 5, 9}),
        (lambda batch: batch["x"] > 6.5, {7, 8, 9}),
        (np.zeros(0), set()),
        ([], set()),
    ],
)
def test_rejected_rows_are_told_by_their_places_or_a_mask(rows: Any, expected: set[int]) -> None:
    columns = {"x": np.arange(10.0)}
    rejected = testing.deliver(Rejects, columns, options={"rows": rows}, rows_max=4)
    assert rejected == dict.fromkeys(expected, "not these")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([4], r"sink Rejects: rm.Reject: there is no row 4 in a batch of 4 rows"),
        ([-1, 1], r"there is no row -1"),
        ([0.5], r"expected places of rows, or a mask of shape \(4,\), got float64 of shape \(1,\)"),
        ([True, False], r"got bool of shape \(2,\)"),
        ([[0], [1]], r"got int64 of shape \(2, 1\)"),
        (["a"], r"got <U1"),
        ([[0], [1, 2]], r"rm.Reject: expected places of rows, or a mask"),
        ([2**70], r"got object of shape \(1,\)"),
        (None, r"got object of shape \(1,\)"),
    ],
)
def test_rows_that_a_batch_does_not_have_cannot_be_rejected(rows: Any, message: str) -> None:
    with pytest.raises(rm.OutputError, match=message):
        testing.deliver(Rejects, {"x": np.arange(4.0)}, options={"rows": rows})


def test_rejected_rows_reach_the_core_with_their_reason_however_many_they_are() -> None:
    told = json.loads(_failure(Rejected([0, 7], "not these"), 4096))
    assert (told["error"], told["rejected"]) == ("not these", [0, 7])
    rows = list(range(8192))
    told = json.loads(_failure(Rejected(rows, "x" * 100_000), (16 << 10) + 10 * len(rows)))
    assert told["rejected"] == rows
    assert told["error"].endswith("...")


class RejectsWhatFails(rm.Sink):
    """Gives an exception as the reason, as one has it at hand."""

    def write(self, batch: rm.Batch) -> None:
        try:
            raise ValueError("no such item")
        except ValueError as error:
            raise rm.Reject([0], error) from error  # type: ignore[arg-type]


def test_a_reason_may_be_an_exception_and_the_core_is_told_its_words() -> None:
    assert testing.deliver(RejectsWhatFails, {"x": np.arange(2.0)}) == {0: "no such item"}
    with pytest.raises(Rejected) as raised:
        Taker(RejectsWhatFails())(testing.batch({"x": np.arange(1.0)}))
    assert json.loads(_failure(raised.value, 4096))["error"] == "no such item"
