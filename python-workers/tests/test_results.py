"""What a UDF may return, how it is converted, and what is said of a result that does not fit."""

import json
import re
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ring import Ring

import ringmill as rm
from ringmill import testing
from ringmill.failure import failure_payload

X = {"x": rm.float64}
THREE = {"x": np.array([1.0, 2.0, 3.0])}


def returns(value: Any, **outputs: rm.DataType) -> Any:
    @rm.udf(outputs=outputs)
    def returned(x):
        return value(x) if callable(value) else value

    return returned


def result(value: Any, **outputs: rm.DataType) -> dict[str, list[Any]]:
    """What the core gets, through a real ring, when a UDF returns ``value`` for three rows."""
    ring = Ring(returns(value, **outputs), X)
    answer = ring.results(THREE)
    through_testing = testing.run(returns(value, **outputs), THREE).to_dict()
    through_ring = testing.Result(answer).to_dict()
    assert json.dumps(through_ring, default=str) == json.dumps(through_testing, default=str)
    return through_ring


ACCEPTED = [
    # one column
    (np.array([1.0, 2.0, 3.0]), rm.float64, [1.0, 2.0, 3.0]),
    (lambda x: x, rm.float64, [1.0, 2.0, 3.0]),
    (lambda x: x[::-1], rm.float64, [3.0, 2.0, 1.0]),
    (np.arange(6.0)[::2], rm.float64, [0.0, 2.0, 4.0]),
    (np.arange(3, dtype=">f8"), rm.float64, [0.0, 1.0, 2.0]),
    (np.arange(3, dtype=np.int32), rm.float64, [0.0, 1.0, 2.0]),
    (np.arange(3, dtype=np.uint8), rm.int16, [0, 1, 2]),
    ([1, 2, 3], rm.float64, [1.0, 2.0, 3.0]),
    ([1, 2, 3], rm.int64, [1, 2, 3]),
    ([1.5, None, 3], rm.nullable(rm.float64), [1.5, None, 3.0]),
    ([True, None, False], rm.nullable(rm.bool_), [True, None, False]),
    ([None, None, None], rm.nullable(rm.int8), [None, None, None]),
    ([np.datetime64(1, "ms"), None, np.datetime64(3, "ms")], rm.nullable(rm.timestamp("ms")), None),
    (np.array([True, False, True]), rm.bool_, [True, False, True]),
    (np.array([0, 7, 255], np.uint8).view(bool), rm.bool_, [False, True, True]),
    (np.array([1, 2, 3], "datetime64[s]"), rm.timestamp("ms"), None),
    (np.ma.MaskedArray([1.0, 2.0, 3.0], mask=[0, 1, 0]), rm.nullable(rm.float64), [1.0, None, 3.0]),
    (np.ma.MaskedArray([1.0, 2.0, 3.0]), rm.float64, [1.0, 2.0, 3.0]),
    (pa.array([1.0, 2.0, 3.0]), rm.float64, [1.0, 2.0, 3.0]),
    (pa.array([0, 1, 2, 3, 4])[1:4], rm.int64, [1, 2, 3]),
    (pa.array([1, None, 3]), rm.nullable(rm.float64), [1.0, None, 3.0]),
    (pa.array([None, None, None]), rm.nullable(rm.utf8), [None, None, None]),
    (pa.array([None, None, None]), rm.nullable(rm.float32), [None, None, None]),
    (pa.array([True, False, None] * 3)[3:6], rm.nullable(rm.bool_), [True, False, None]),
    (pa.chunked_array([[1.0], [], [2.0, 3.0]]), rm.float64, [1.0, 2.0, 3.0]),
    (pl.Series([1.0, 2.0, None]), rm.nullable(rm.float64), [1.0, 2.0, None]),
    # text and bytes
    (["a", "", "grün"], rm.utf8, ["a", "", "grün"]),
    (["a", None, "c"], rm.nullable(rm.utf8), ["a", None, "c"]),
    (np.array(["a", "bb", "ccc"]), rm.utf8, ["a", "bb", "ccc"]),
    (np.array(["a", "bb", "ccc"], dtype=object), rm.utf8, ["a", "bb", "ccc"]),
    (np.array(["a", "bb", "ccc"], dtype=np.dtypes.StringDType()), rm.utf8, ["a", "bb", "ccc"]),
    (np.ma.MaskedArray(["a", "b", "c"], mask=[0, 1, 0]), rm.nullable(rm.utf8), ["a", None, "c"]),
    (
        pa.array(["a", None, "a text of more than twelve bytes"]),
        rm.nullable(rm.utf8),
        ["a", None, "a text of more than twelve bytes"],
    ),
    (pa.array(["z", "a", "b", "c"], pa.large_string())[1:], rm.utf8, ["a", "b", "c"]),
    (
        pa.array(["a", "b", "a text of more than twelve bytes"], pa.string_view()),
        rm.utf8,
        ["a", "b", "a text of more than twelve bytes"],
    ),
    (pl.Series(["a", "b", "a text of more than twelve bytes"]), rm.utf8, ["a", "b", "a text of more than twelve bytes"]),
    ([b"a", b"\xff", bytearray(b"c")], rm.binary, [b"a", b"\xff", b"c"]),
    (pa.array([b"a", b"\xff", b""]), rm.binary, [b"a", b"\xff", b""]),
    (["a", "b", "c"], rm.utf8, ["a", "b", "c"]),
    # lists
    ([[1.0], [], [2.0, 3.0]], rm.list_(rm.float64), [[1.0], [], [2.0, 3.0]]),
    ([np.array([1, 2]), None, (3,)], rm.nullable(rm.list_(rm.int64)), [[1, 2], None, [3]]),
    (np.arange(6.0).reshape(3, 2), rm.list_(rm.float64), [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]),
    (pa.array([[9], [1], None, [2, 3]])[1:], rm.nullable(rm.list_(rm.int64)), [[1], None, [2, 3]]),
    (pa.array([[1], [], [2, 3]], pa.list_(pa.int32())), rm.list_(rm.float64), [[1.0], [], [2.0, 3.0]]),
    (pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.int8(), 2)), rm.list_(rm.int8), [[1, 2], [3, 4], [5, 6]]),
    (pl.Series([[1.0], [], [2.0]]), rm.list_(rm.float64), [[1.0], [], [2.0]]),
]


@pytest.mark.parametrize(("value", "data_type", "expected"), ACCEPTED)
def test_one_column_may_be_returned_as(value: Any, data_type: rm.DataType, expected: Any) -> None:
    got = result(value, y=data_type)["y"]
    assert expected is None or got == expected
    assert result(lambda x: (value(x) if callable(value) else value,), y=data_type)["y"] == got
    assert result(lambda x: {"y": value(x) if callable(value) else value}, y=data_type)["y"] == got


def test_timestamps_of_a_coarser_unit_are_converted():
    column = testing.run(returns(np.array([1, 2, 3], "datetime64[s]"), y=rm.timestamp("ns")), THREE)["y"]
    assert column.dtype == "datetime64[ns]"
    assert column.tolist() == [10**9, 2 * 10**9, 3 * 10**9]


def test_nat_is_a_null():
    value = np.array([1, "NaT", 3], "datetime64[ms]")
    assert testing.run(returns(value, y=rm.nullable(rm.timestamp("ms"))), THREE)["y"].mask.tolist() == [False, True, False]


TWO = {"y": rm.float64, "s": rm.utf8}


@pytest.mark.parametrize(
    "value",
    [
        {"y": [1.0, 2.0, 3.0], "s": ["a", "b", "c"]},
        {"s": np.array(["a", "b", "c"]), "y": np.array([1.0, 2.0, 3.0])},
        (np.array([1.0, 2.0, 3.0]), ["a", "b", "c"]),
        pa.table({"s": ["a", "b", "c"], "y": [1.0, 2.0, 3.0]}),
        pa.record_batch({"y": [1.0, 2.0, 3.0], "s": ["a", "b", "c"]}),
        pa.record_batch({"y": [0, 1, 2, 3], "s": ["z", "a", "b", "c"]})[1:],
        pa.concat_tables([pa.table({"y": [1.0], "s": ["a"]}), pa.table({"y": [2.0, 3.0], "s": ["b", "c"]})]),
        pl.DataFrame({"y": [1.0, 2.0, 3.0], "s": ["a", "b", "c"]}),
        {"y": pl.Series([1.0, 2.0, 3.0]), "s": pa.array(["a", "b", "c"])},
    ],
)
def test_several_columns_may_be_returned_as(value: Any) -> None:
    assert result(value, **TWO) == {"y": [1.0, 2.0, 3.0], "s": ["a", "b", "c"]}


def test_input_columns_may_be_returned():
    @rm.udf(outputs={"t": rm.utf8, "m": rm.list_(rm.float64)})
    def same(s, l):  # noqa: E741
        return s, l

    ring = Ring(same, {"s": rm.utf8, "l": rm.list_(rm.float64)})
    got = ring.results({"s": ["a", "bb"], "l": [[1.0], [2.0, 3.0]]})
    assert testing.Result(got).to_dict() == {"t": ["a", "bb"], "m": [[1.0], [2.0, 3.0]]}


def test_a_batch_may_be_returned():
    @rm.udf(outputs={"y": rm.float64})
    def renamed(batch: rm.Batch):
        return batch.to_arrow().rename_columns(["y"])

    assert testing.run(renamed, THREE)["y"].tolist() == [1.0, 2.0, 3.0]


FLOAT = {"y": rm.float64}

REFUSED = [
    (None, FLOAT, "'y'.*expected float64 values, one for each row, got None"),
    (1.5, FLOAT, "'y'.*expected float64 values, one for each row, got a float"),
    (np.float64(1.5), FLOAT, "'y'.*got one float64 for all rows"),
    (np.array(1.5), FLOAT, "'y'.*got one float64 for all rows"),
    ("abc", FLOAT, "'y'.*got a str"),
    (np.arange(2.0), FLOAT, "'y': expected 3 rows, got 2"),
    ([1.0, 2.0], FLOAT, "'y': expected 3 rows, got 2"),
    (np.arange(6.0).reshape(3, 2), FLOAT, r"'y'.*got a float64 array of shape \[3, 2\]"),
    (np.array(["a", "b", "c"]), FLOAT, "'y': expected float64, got <U1"),
    (np.array([1, "a", None], object), FLOAT, "'y': expected float64, got Python objects"),
    (["a", "b", "c"], FLOAT, "'y': expected float64"),
    (np.arange(3.0), {"y": rm.float32}, "'y': expected float32, got float64, which does not convert without loss"),
    (np.arange(3), {"y": rm.int32}, r"'y': expected int32, got int64.*astype\('?\"?int32"),
    (np.arange(3) + 1j, FLOAT, "'y': expected float64, got complex128"),
    (np.array([1, 2, 3], "datetime64[ms]"), {"y": rm.timestamp("s")}, r"'y': expected timestamp\[s\], got datetime64\[ms\]"),
    (np.array([1, "NaT", 3], "datetime64[ms]"), {"y": rm.timestamp("ms")}, "'y'.*without nulls.*1 nulls, the first in row 1"),
    (np.ma.MaskedArray([1.0, 2.0, 3.0], mask=[0, 1, 1]), FLOAT, "'y'.*without nulls.*2 nulls, the first in row 1"),
    (pa.array([1.0, None, 3.0]), FLOAT, "'y'.*without nulls"),
    (pa.array([1.0, 2.0]), FLOAT, "'y': expected 3 rows, got 2"),
    (pa.array(["a", "b", "c"]), FLOAT, "'y': expected float64, got utf8"),
    (pa.array(["a", "b", "a"]).dictionary_encode(), {"y": rm.utf8}, "dictionary-encoded"),
    (pa.array([1, 2, 3], pa.date32()), FLOAT, 'Arrow data of format "tdD" is not taken'),
    (pa.array([1, 2, 3]), {"y": rm.int32}, "'y': expected int32, got int64"),
    (pa.array([[1], [None], []]), {"y": rm.list_(rm.int64)}, "'y'.*lists without null items"),
    (["a", 1, "c"], {"y": rm.utf8}, "'y': expected utf8: a str in each row, got a int in row 1"),
    (["a", None, "c"], {"y": rm.utf8}, "'y'.*without nulls.*a null in row 1"),
    (["a", "\ud800", "c"], {"y": rm.utf8}, "'y'.*surrogates"),
    (["a", "x" * 1000, "c"], {"y": rm.utf8}, "'y': expected at most 512 bytes of utf8 in a batch, got more, in row 1"),
    ("abc", {"y": rm.utf8}, "'y'.*one for each row, got a str"),
    (["a", "b", "c"], {"y": rm.binary}, "'y': expected binary: bytes in each row, got a str in row 0"),
    ([[1.0], 2.0, []], {"y": rm.list_(rm.float64)}, "'y': expected .*a list in each row, got a float in row 1"),
    ([[1.5], [2.0], []], {"y": rm.list_(rm.int64)}, "'y': expected .*int64.*got float64"),
    ({"z": [1.0, 2.0, 3.0]}, FLOAT, "'y': expected a column of that name, got columns z"),
    ({"y": [1.0, 2.0, 3.0], "z": [1, 2, 3]}, FLOAT, 'expected columns y, got also "z"'),
    (([1.0], [2.0]), FLOAT, r"expected 1 columns \(y\), got a tuple of 2"),
    (np.arange(3.0), TWO, "expected columns y, s, got an array of 3 float64"),
    (None, TWO, "expected columns y, s, got None"),
    (pa.table({"y": [1.0, 2.0]}), FLOAT, "expected 3 rows, got 2"),
    (pa.table({"z": [1.0, 2.0, 3.0]}), FLOAT, 'expected columns y, got also "z"'),
    (pa.table({"y": [1.0, 2.0, 3.0]}), TWO, "'s': expected a column of that name, got columns y"),
]


@pytest.mark.parametrize(("value", "outputs", "message"), REFUSED)
def test_a_result_that_does_not_fit_is_refused_by_name(value: Any, outputs: dict[str, rm.DataType], message: str) -> None:
    ring = Ring(returns(value, **outputs), X)
    completion = ring.ask(THREE)
    assert completion["kind"] == "failed"
    error = json.loads(completion["failure"])["error"]
    assert re.search(message.replace("'", '"'), error), error
    assert error.startswith("OutputError: UDF returns.<locals>.returned: ")
    # The slot is good for the next batch.
    assert Ring(returns(lambda x: x, y=rm.float64), X).results(THREE)["y"].tolist() == [1.0, 2.0, 3.0]


def test_testing_raises_output_errors():
    with pytest.raises(rm.OutputError, match="expected 3 rows, got 1"):
        testing.run(returns([1.0], **FLOAT), THREE)


def test_a_slot_is_good_again_after_a_failure():
    fail = [True]

    @rm.udf(outputs={"y": rm.float64})
    def sometimes(x):
        if fail[0]:
            raise ValueError("a long text " * 100)
        return x

    ring = Ring(sometimes, X, slots=2)
    for _ in range(6):
        fail[0] = True
        assert ring.ask(THREE)["kind"] == "failed"
        fail[0] = False
        assert ring.results(THREE)["y"].tolist() == [1.0, 2.0, 3.0]


def test_an_exception_is_told_with_its_traceback_within_the_slot():
    @rm.udf(outputs={"y": rm.float64})
    def fails(x):
        raise KeyError("ключ " * 200)

    completion = Ring(fails, X).ask(THREE)
    failure = json.loads(completion["failure"])
    assert failure["error"].startswith("KeyError: 'ключ ключ")
    assert "in fails" in failure["traceback"]


@pytest.mark.parametrize("room", [0, 30, 40, 100, 300, 1000, 10_000])
def test_a_failure_fits_any_room(room: int) -> None:
    try:
        raise ValueError("the beginning of the message " + 'ж"' * 500)
    except ValueError as error:
        payload = failure_payload(error, room)
    assert len(payload) <= room
    if room >= 100:
        assert json.loads(payload)["error"].startswith("ValueError: the beg")


def test_sys_exit_in_a_udf_fails_the_batch_only():
    @rm.udf(outputs={"y": rm.float64})
    def leaves(x):
        raise SystemExit(1)

    assert json.loads(Ring(leaves, X).ask(THREE)["failure"])["error"] == "SystemExit: 1"


def test_out_is_written_in_place():
    addresses = []

    @rm.udf(outputs={"y": rm.float64})
    def doubled(x, out):
        addresses.append(out.ctypes.data)
        np.multiply(x, 2, out=out)

    ring = Ring(doubled, X, slots=2)
    for _ in range(6):
        assert ring.results(THREE)["y"].tolist() == [2.0, 4.0, 6.0]
    assert len(set(addresses)) <= 2


def test_out_starts_as_zeros():
    @rm.udf(outputs={"y": rm.float64})
    def first_only(x, out):
        out[0] = x[0]

    ring = Ring(first_only, X, slots=2)
    for _ in range(4):
        assert ring.results(THREE)["y"].tolist() == [1.0, 0.0, 0.0]


def test_several_outs_come_as_a_dict_and_may_be_returned_swapped():
    @rm.udf(outputs={"a": rm.float64, "b": rm.int64})
    def both(x, *, out):
        out["a"][:] = x
        out["b"][:] = 7

    assert testing.Result(Ring(both, X).results(THREE)).to_dict() == {"a": [1.0, 2.0, 3.0], "b": [7, 7, 7]}

    @rm.udf(outputs={"a": rm.float64, "b": rm.float64})
    def swapped(x, out):
        out["a"][:] = x
        out["b"][:] = -x
        return {"a": out["b"], "b": out["a"][::-1]}

    expected = {"a": [-1.0, -2.0, -3.0], "b": [3.0, 2.0, 1.0]}
    assert testing.Result(Ring(swapped, X).results(THREE)).to_dict() == expected
    assert testing.run(swapped, THREE).to_dict() == expected


def test_out_itself_may_be_returned():
    @rm.udf(outputs={"y": rm.float64})
    def doubled(x, out):
        return np.multiply(x, 2, out=out)

    assert Ring(doubled, X).results(THREE)["y"].tolist() == [2.0, 4.0, 6.0]


def test_bools_written_in_place_are_made_0_or_1():
    @rm.udf(outputs={"y": rm.bool_})
    def odd(x, out):
        out.view(np.uint8)[:] = [0, 2, 255]

    assert Ring(odd, X).results(THREE)["y"].tolist() == [False, True, True]


def test_an_empty_batch_is_answered():
    assert len(Ring(returns([], y=rm.float64), X).results({"x": np.array([])})) == 0
    assert len(Ring(returns([], y=rm.utf8), X).results({"x": np.array([])})) == 0
    assert len(Ring(returns(lambda x: x, y=rm.float64), X).results({"x": np.array([])})) == 0


VALUES = st.one_of(
    st.tuples(st.just(rm.nullable(rm.utf8)), st.lists(st.none() | st.text(max_size=20), max_size=8)),
    st.tuples(st.just(rm.nullable(rm.binary)), st.lists(st.none() | st.binary(max_size=20), max_size=8)),
    st.tuples(st.just(rm.nullable(rm.int64)), st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), max_size=8)),
    st.tuples(st.just(rm.nullable(rm.float64)), st.lists(st.none() | st.floats(allow_nan=False), max_size=8)),
    st.tuples(st.just(rm.nullable(rm.bool_)), st.lists(st.none() | st.booleans(), max_size=8)),
    st.tuples(
        st.just(rm.nullable(rm.list_(rm.float64))),
        st.lists(st.none() | st.lists(st.floats(allow_nan=False), max_size=5), max_size=8),
    ),
)

ARROW = {"utf8": pa.string(), "binary": pa.binary(), "int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_()}


@settings(max_examples=150, deadline=None)
@given(VALUES, st.booleans(), st.integers(0, 3))
def test_any_values_come_back_the_same_through_batch_udf_and_ring(case: Any, as_series: bool, offset: int) -> None:
    data_type, values = case
    arrow_type = ARROW.get(data_type.name, pa.list_(pa.float64()))
    # Offsets into arrays are where imports go wrong.
    arrow = pa.array(values[:offset] + values, arrow_type)[len(values[:offset]) :]

    @rm.udf(outputs={"y": data_type})
    def again(batch: rm.Batch):
        frame = pl.DataFrame(batch) if as_series else batch
        return {"y": frame["x"]}

    ring = Ring(again, {"x": data_type})
    assert ring.core.publish({"x": arrow}, len(values)) is not None
    completion = ring.answer()
    assert completion["kind"] == "result", completion["failure"]
    assert testing.Result(completion["columns"]).to_dict()["y"] == values
    assert pa.record_batch(completion["columns"]).column(0).to_pylist() == values
