"""``ringmill.testing``: UDFs without a core."""

import numpy as np
import pyarrow as pa
import pytest

import ringmill as rm
from ringmill import testing


@rm.udf(outputs={"y": rm.float64})
def double(x):
    return x * 2


@rm.udf(outputs={"y": rm.float64})
def z_score(x):
    return (x - x.mean()) / (x.std() or 1.0)


@rm.udf(outputs={"total": rm.float64})
class RunningTotal:
    def setup(self):
        self.total = 0.0

    def __call__(self, x):
        totals = self.total + np.cumsum(x)
        if len(totals):
            self.total = totals[-1]
        return totals


@rm.udf(outputs={"length": rm.int64, "upper": rm.nullable(rm.utf8)})
def text(batch: rm.Batch):
    names = batch["name"].to_list()
    return [len(name or "") for name in names], [name and name.upper() for name in names]


def test_a_udf_runs_on_arrays_lists_and_batches():
    assert testing.run(double, {"x": np.arange(3.0)})["y"].tolist() == [0.0, 2.0, 4.0]
    assert testing.run(double, {"x": [1.0, 2.0]})["y"].tolist() == [2.0, 4.0]
    assert testing.run(double, testing.batch({"x": [1.0]}))["y"].tolist() == [2.0]
    assert testing.run(double, {"x": pa.array([1.5])}, schema={"x": rm.float64})["y"].tolist() == [3.0]


def test_results_are_columns_by_name():
    result = testing.run(text, {"name": ["a", None, "bcd"]})
    assert list(result) == ["length", "upper"]
    assert len(result) == 2
    assert result["length"].tolist() == [1, 0, 3]
    assert result["upper"].to_list() == ["A", None, "BCD"]
    assert result.to_dict() == {"length": [1, 0, 3], "upper": ["A", None, "BCD"]}
    assert pa.record_batch(result.batch).num_rows == 3


def test_the_arrays_are_read_only_as_in_a_worker():
    @rm.udf(outputs={"y": rm.float64})
    def writes(x):
        x[0] = 1.0

    with pytest.raises(ValueError, match="read-only"):
        testing.run(writes, {"x": np.zeros(3)})


def test_the_data_that_were_given_are_not_touched():
    given = np.zeros(3)

    @rm.udf(outputs={"y": rm.float64})
    def looks(x):
        assert not np.shares_memory(x, given)
        return x

    testing.run(looks, {"x": given})


def test_a_class_starts_anew_for_each_run_but_an_instance_goes_on():
    assert testing.run(RunningTotal, {"x": [1.0, 2.0]})["total"].tolist() == [1.0, 3.0]
    assert testing.run(RunningTotal, {"x": [1.0, 2.0]})["total"].tolist() == [1.0, 3.0]
    instance = RunningTotal()
    instance.setup()
    testing.run(instance, {"x": [1.0, 2.0]})
    assert testing.run(instance, {"x": [1.0]})["total"].tolist() == [4.0]


def test_columns_that_do_not_fit_are_schema_errors():
    with pytest.raises(rm.SchemaError, match="UDF double: column 'x' is missing"):
        testing.run(double, {"z": [1.0]})


def test_an_exception_of_the_udf_passes_through():
    @rm.udf(outputs={"y": rm.float64})
    def fails(x):
        raise LookupError("nothing there")

    with pytest.raises(LookupError, match="nothing there"):
        testing.run(fails, {"x": [1.0]})


def test_types_follow_what_the_udf_says_it_takes():
    @rm.udf(outputs={"y": rm.int32}, inputs={"x": rm.int32})
    def same(x):
        assert x.dtype == np.int32
        return x

    with pytest.raises(rm.OutputError, match="expected int32, got int64"):
        testing.run(same, {"x": [1, 2]})
    assert testing.run(same, {"x": np.array([1, 2], np.int32)})["y"].tolist() == [1, 2]


def test_row_wise_udfs_are_told_from_others():
    columns = {"x": np.random.default_rng(1).integers(-100, 100, size=30).astype(float)}
    assert testing.is_row_wise(double, columns)
    assert testing.is_row_wise(RunningTotal, columns)
    assert not testing.is_row_wise(z_score, columns)
    testing.assert_row_wise(double, columns)
    with pytest.raises(AssertionError, match=r"UDF z_score is not row-wise: column 'y', row 0 is .* with batches cut at"):
        testing.assert_row_wise(z_score, columns)


def test_rounding_may_be_allowed_for():
    columns = {"x": np.random.default_rng(1).normal(size=100)}
    assert not testing.is_row_wise(RunningTotal, columns)
    assert testing.is_row_wise(RunningTotal, columns, relative_tolerance=1e-9)


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_few_rows_can_be_cut_too(rows):
    assert testing.is_row_wise(double, {"x": np.zeros(rows)})
    assert testing.is_row_wise(text, {"name": ["a"] * rows}, schema={"name": rm.utf8})


def test_nan_is_the_same_as_nan_and_lists_are_compared():
    @rm.udf(outputs={"y": rm.float64, "l": rm.list_(rm.float64)})
    def odd(x):
        return np.full(len(x), np.nan), [[value, np.nan] for value in x]

    assert testing.is_row_wise(odd, {"x": [1.0, 2.0, 3.0]})


TYPES = [
    (np.array([1], np.int16), rm.int16),
    (np.array([1], "datetime64[us]"), rm.timestamp("us")),
    ([1, 2], rm.int64),
    ([1.5], rm.float64),
    ([True], rm.bool_),
    (["a"], rm.utf8),
    ([b"a"], rm.binary),
    (["a", None], rm.nullable(rm.utf8)),
    ([1.0, None], rm.nullable(rm.float64)),
    (np.ma.MaskedArray([1.0, 2.0], mask=[0, 1]), rm.nullable(rm.float64)),
    ([[1.0], []], rm.list_(rm.float64)),
    ([[1], None], rm.nullable(rm.list_(rm.int64))),
    (np.zeros((2, 3), np.float32), rm.list_(rm.float32)),
    ([], rm.float64),
    (np.array(["a"]), rm.utf8),
]


@pytest.mark.parametrize(("values", "data_type"), TYPES)
def test_types_are_taken_from_the_data(values, data_type):
    assert testing.batch({"c": values}).schema == {"c": data_type}


def test_data_without_a_column_type_are_named():
    with pytest.raises(TypeError, match="column 'c': complex128 is no column type"):
        testing.batch({"c": np.zeros(2, complex)})
    with pytest.raises(TypeError, match="column 'c': give its type in schema="):
        testing.batch({"c": pa.array([1])})
    with pytest.raises(rm.OutputError, match='batch: column "b": expected 2 rows, got 1'):
        testing.batch({"a": [1.0, 2.0], "b": [1.0]})


def test_what_is_not_a_udf_is_refused():
    with pytest.raises(TypeError, match="is not a UDF"):
        testing.run(len, {"x": [1.0]})
