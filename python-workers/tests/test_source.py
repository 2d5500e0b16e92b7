"""What a class `rm.Source` may return, how it is checked, and how it is read in a test."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

import ringmill as rm
from ringmill import testing
from ringmill.describe import describe, partitions
from ringmill.source import check_source

SCHEMA = {"number": rm.int64, "name": rm.utf8}


class Numbers(rm.Source):
    """Numbers with names, in a form of its own."""

    def __init__(self, form: str = "dict", count: int = 50) -> None:
        self.form, self.count, self.next, self.closed = form, count, 0, False

    def poll(self, partition: str, rows_max: int) -> rm.Rows:
        if self.next >= self.count:
            return rm.End
        rows = np.arange(self.next, min(self.next + rows_max, self.count))
        self.next += len(rows)
        columns = {"number": rows, "name": [f"{partition}-{row}" for row in rows]}
        match self.form:
            case "dict":
                return columns
            case "tuple":
                return tuple(columns.values())
            case "table":
                return pa.table(columns)
            case "record batch":
                return pa.record_batch(columns)
            case "frame":
                return pl.DataFrame(columns)
        raise AssertionError(self.form)

    def position(self, partition: str) -> Any:
        return {"next": self.next}

    def seek(self, partition: str, position: Any) -> None:
        self.next = position["next"]


class Forgetful(Numbers):
    """Goes back one row too far."""

    def seek(self, partition: str, position: Any) -> None:
        self.next = max(position["next"] - 1, 0)


class Plain(rm.Source):
    """Returns what it was given."""

    def __init__(self, rows: Any = None) -> None:
        self.rows = rows

    def poll(self, partition: str, rows_max: int) -> rm.Rows:
        return self.rows


@pytest.mark.parametrize("form", ["dict", "tuple", "table", "record batch", "frame"])
def test_rows_come_in_every_form_that_a_udf_may_return(form: str) -> None:
    polled = testing.poll(Numbers, SCHEMA, options={"form": form}, partition="p", rows_max=20)
    assert [len(batch) for batch, _ in polled] == [20, 20, 10]
    assert [position for _, position in polled] == [{"next": 20}, {"next": 40}, {"next": 50}]
    assert polled[2].batch["number"].tolist() == list(range(40, 50))
    assert polled[2].batch["name"].to_list() == [f"p-{number}" for number in range(40, 50)]


def test_a_source_that_seeks_exactly_passes_and_one_that_does_not_is_told_where() -> None:
    testing.assert_seekable(Numbers, SCHEMA, rows_max=7)
    message = "source Forgetful: row 0 behind position {'next': 7} was (7, '0-7'), and after seek() it is (6, '0-6')"
    with pytest.raises(AssertionError, match=re.escape(message)):
        testing.assert_seekable(Forgetful, SCHEMA, rows_max=7)
    with pytest.raises(AssertionError, match=r"source Plain has no seek\(\)"):
        testing.assert_seekable(Plain, SCHEMA)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"number": np.arange(3) * 0.5, "name": ["a"] * 3}, 'source Plain: column "number": expected int64, got float64'),
        ({"number": [1, 2, 3], "name": ["a"]}, 'source Plain: column "name": expected 3 rows, got 1'),
        ({"number": [1]}, 'source Plain: column "name": expected a column of that name, got columns number'),
        ({"number": [1], "name": ["a"], "more": [1]}, "source Plain: expected columns number, name, got also"),
        ({"number": 7, "name": "a"}, "source Plain: poll(): column 'number': expected values, one for each row, got int 7"),
        ({"number": np.arange(9), "name": ["a"] * 9}, "source Plain: poll(): expected at most 8 rows (rows_max), got 9"),
        (7, "source Plain: poll(): expected columns by name, a table, None or rm.End, got int 7"),
        ({"number": [1], "name": [None]}, 'source Plain: column "name": expected utf8 without nulls'),
    ],
)
def test_what_does_not_fit_is_told_with_column_expected_and_got(rows: Any, message: str) -> None:
    with pytest.raises(rm.OutputError, match=re.escape(message)):
        testing.poll(Plain, SCHEMA, options={"rows": rows}, rows_max=8, polls_max=1)


@pytest.mark.parametrize(
    ("position", "message"),
    [
        ({1}, "position(): expected JSON values, got {1}: Object of type set is not JSON serializable"),
        (float("nan"), "position(): expected JSON values, got nan"),
        ("x" * 16_383, "position(): expected at most 16383 bytes as JSON, got 16385"),
    ],
)
def test_a_position_that_cannot_be_kept_is_refused(position: Any, message: str) -> None:
    class Standing(Numbers):
        def position(self, partition: str) -> Any:
            return position

    with pytest.raises(rm.OutputError, match=re.escape(message)):
        testing.poll(Standing, SCHEMA)


def test_nothing_now_is_no_batch() -> None:
    assert testing.poll(Plain, SCHEMA, polls_max=5) == []
    assert testing.poll(Plain, SCHEMA, options={"rows": {"number": [], "name": []}}, polls_max=5) == []


def test_a_class_that_cannot_be_a_source_says_why() -> None:
    class Silent(rm.Source):
        pass

    class Half(Plain):
        def position(self, partition: str) -> Any:
            return 1

    for target, options, message in [
        (Silent, {}, "source Silent has no poll(self, partition, rows_max)"),
        (Half, {}, "source Half has position() and no seek()"),
        (Plain, {"row": 1}, "source Plain does not take these options: got an unexpected keyword argument 'row'"),
        (Plain(), {}, "m:x is not a source: derive a class from rm.Source"),
    ]:
        with pytest.raises(rm.LoadError, match=re.escape(message)):
            check_source(target, "m:x", options)


def test_the_core_is_told_what_a_class_can_do(tmp_path: Any) -> None:
    (tmp_path / "of_test_source.py").write_text(
        "import ringmill as rm\n"
        "class Many(rm.Source):\n"
        "    def __init__(self, names=('a', 'b')):\n        self.names = names\n"
        "    def partitions(self):\n        return list(self.names)\n"
        "    def poll(self, partition, rows_max):\n        return rm.End\n"
    )
    described = describe("s", "of_test_source:Many", str(tmp_path), "source", {"names": []})
    assert described == {"step": "s", "ok": True, "name": "Many", "seek": False, "partitions": True}
    assert json.dumps(described)
    asked = [
        {},
        {"names": []},
        {"names": ["a", "a"]},
        {"names": [""]},
        {"names": [str(n) for n in range(1025)]},
        {"names": ["\ud800"]},
    ]
    answers = [partitions("of_test_source:Many", str(tmp_path), options, 60) for options in asked]
    assert answers[0] == {"partitions": ["a", "b"]}
    for answer, message in zip(
        answers[1:],
        [
            "1 to 1024 names, got 0",
            "'a' twice",
            "not empty, got ''",
            "1 to 1024 names, got 1025",
            "Unicode characters, got '\\ud800'",
        ],
        strict=True,
    ):
        assert message in answer["error"]
        assert "Traceback" in answer["traceback"]
