"""Columns as user code sees them."""

import numpy as np
import pyarrow as pa
import pytest

import ringmill as rm
from ringmill import testing


def column(values, data_type):
    return testing.batch({"c": values}, schema={"c": data_type})["c"]


FIXED = [
    (rm.bool_, [True, False], np.bool_),
    (rm.int8, [1, -2], np.int8),
    (rm.int16, [1, -2], np.int16),
    (rm.int32, [1, -2], np.int32),
    (rm.int64, [1, -(2**63)], np.int64),
    (rm.uint8, [1, 255], np.uint8),
    (rm.uint16, [1, 2], np.uint16),
    (rm.uint32, [1, 2], np.uint32),
    (rm.uint64, [1, 2**64 - 1], np.uint64),
    (rm.float32, [1.5, -2.5], np.float32),
    (rm.float64, [1.5, float("inf")], np.float64),
]


@pytest.mark.parametrize(("data_type", "values", "scalar"), FIXED)
def test_fixed_width_columns_are_arrays_of_their_type(data_type, values, scalar):
    array = column(np.array(values, scalar), data_type)
    assert type(array) is np.ndarray
    assert array.dtype == scalar
    assert array.tolist() == values
    assert not array.flags.writeable
    assert array.ctypes.data % 64 == 0


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_timestamps_are_datetime64_of_their_unit(unit):
    array = column(np.array([1, 2], f"datetime64[{unit}]"), rm.timestamp(unit))
    assert array.dtype == f"datetime64[{unit}]"
    assert array.astype(np.int64).tolist() == [1, 2]


def test_nullable_fixed_width_columns_are_masked_arrays():
    array = column(pa.array([1.0, None, 3.0]), rm.nullable(rm.float64))
    assert type(array) is np.ma.MaskedArray
    assert array.mask.tolist() == [False, True, False]
    assert (array * 2).tolist() == [2.0, None, 6.0]
    assert array.mean() == 2.0


def test_a_nullable_column_without_nulls_is_a_masked_array_without_mask():
    array = column([1.0, 2.0], rm.nullable(rm.float64))
    assert type(array) is np.ma.MaskedArray
    assert array.mask is np.ma.nomask


def test_the_values_under_a_mask_cannot_be_written():
    array = column(pa.array([1.0, None, 3.0]), rm.nullable(rm.float64))
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 5.0


def test_text_is_decoded_when_asked_for():
    texts = column(["a", "", "grün"], rm.utf8)
    assert isinstance(texts, rm.StringColumn)
    assert texts.data_type == "utf8"
    assert (len(texts), texts[0], texts[-1], texts[1:]) == (3, "a", "grün", ["", "grün"])
    assert list(texts) == texts.to_list() == ["a", "", "grün"]
    assert texts.offsets.tolist() == [0, 1, 1, 6]
    assert texts.bytes.tobytes() == "agrün".encode()
    assert texts.null_count == 0
    assert not texts.mask.any()
    assert repr(texts) == "<StringColumn utf8 of 3 rows>"


def test_text_becomes_numpy_and_arrow():
    texts = column(["a", None, "c"], rm.nullable(rm.utf8))
    assert texts.to_numpy().tolist() == ["a", None, "c"]
    assert np.asarray(texts).dtype == object
    assert column(["a", "bc"], rm.utf8).to_numpy("U2").tolist() == ["a", "bc"]
    assert np.array(column(["a", "bc"], rm.utf8), dtype=np.dtypes.StringDType()).tolist() == ["a", "bc"]
    assert pa.array(texts).to_pylist() == ["a", None, "c"]
    assert texts.mask.tolist() == [False, True, False]
    assert (texts.null_count, texts[1], list(texts)) == (1, None, ["a", None, "c"])
    with pytest.raises(ValueError, match="without a copy"):
        np.asarray(texts, copy=False)


def test_binary_is_bytes():
    blobs = column([b"\x00", b"", b"\xff\xfe"], rm.binary)
    assert blobs.to_list() == [b"\x00", b"", b"\xff\xfe"]
    assert blobs.data_type == "binary"
    assert pa.array(blobs).type == pa.binary()


@pytest.mark.parametrize("index", [3, -4, 2**40])
def test_rows_beyond_a_column_are_index_errors(index):
    with pytest.raises(IndexError, match=f"row {index} of a column of 3 rows"):
        column(["a", "b", "c"], rm.utf8)[index]


def test_a_mask_as_an_index_is_refused_with_a_hint():
    with pytest.raises(TypeError, match=r"use to_numpy\(\) for masks"):
        column(["a", "b"], rm.utf8)[np.array([True, False])]


def test_lists_are_views_of_all_items():
    lists = column([[1.0, 2.0], [], None, [3.0]], rm.nullable(rm.list_(rm.float64)))
    assert isinstance(lists, rm.ListColumn)
    assert lists.data_type == "list[float64]"
    assert lists.values.tolist() == [1.0, 2.0, 3.0]
    assert lists.offsets.tolist() == [0, 2, 2, 2, 3]
    assert lists.mask.tolist() == [False, False, True, False]
    assert lists[0].ctypes.data == lists.values.ctypes.data
    assert (lists[-1].tolist(), lists[2], len(lists)) == ([3.0], None, 4)
    assert [None if row is None else row.tolist() for row in lists] == [[1.0, 2.0], [], None, [3.0]]
    assert [row.tolist() for row in lists[0:2]] == [[1.0, 2.0], []]
    assert not lists[0].flags.writeable
    assert pa.array(lists).to_pylist() == [[1.0, 2.0], [], None, [3.0]]


def test_lists_may_hold_timestamps():
    lists = column([np.array([1, 2], "datetime64[ms]"), np.array([], "datetime64[ms]")], rm.list_(rm.timestamp("ms")))
    assert lists[0].dtype == "datetime64[ms]"
    assert lists.values.astype(int).tolist() == [1, 2]


def test_a_batch_is_a_mapping_of_columns():
    batch = testing.batch({"x": [1.0, 2.0], "s": ["a", None]})
    assert (len(batch), batch.columns) == (2, ["x", "s"])
    assert batch.schema == {"x": rm.float64, "s": rm.nullable(rm.utf8)}
    assert "x" in batch
    assert "y" not in batch
    assert batch["x"].tolist() == [1.0, 2.0]
    with pytest.raises(KeyError, match=r"no column .*y.*; there are x, s"):
        batch["y"]
    assert repr(batch) == "<Batch of 2 rows: x: float64, s: utf8>"


def test_a_batch_is_an_arrow_table():
    columns = {
        "x": pa.array([1.0, None, 3.0]),
        "s": ["a", "bb", "ccc"],
        "b": np.array([True, False, True]),
        "t": np.array([1, 2, 3], "datetime64[us]"),
        "l": [[1], [], [2, 3]],
    }
    batch = testing.batch(columns, schema={"x": rm.nullable(rm.float64)})
    record_batch = batch.to_arrow()
    record_batch.validate(full=True)
    assert record_batch.schema.field("x").nullable
    assert not record_batch.schema.field("s").nullable
    assert record_batch.to_pydict()["b"] == [True, False, True]
    assert record_batch.to_pydict()["x"] == [1.0, None, 3.0]
    assert record_batch.to_pydict()["l"] == [[1], [], [2, 3]]
    assert record_batch.schema.field("t").type == pa.timestamp("us")
    assert pa.table(batch).num_rows == 3
    assert pa.schema(batch).names == list(columns)


@pytest.mark.parametrize("rows", [0, 1, 7, 8, 9, 64, 1000])
def test_bools_are_packed_for_arrow(rows):
    values = (np.arange(rows) % 3 == 0).tolist()
    batch = testing.batch({"b": np.array(values, bool)})
    assert batch.to_arrow().column(0).to_pylist() == values
