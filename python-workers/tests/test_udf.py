"""``@rm.udf``: what it understands, and what it says of a mistake."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest

import ringmill as rm
from ringmill.udf import Declaration, declaration_of

if TYPE_CHECKING:
    from nowhere import Unknown

Y = {"y": rm.float64}


def declared(target: Any, **options: Any) -> Declaration:
    declaration = declaration_of(rm.udf(**({"outputs": Y} | options))(target))
    assert declaration is not None
    return declaration


def test_a_decorated_function_is_the_function():
    def double(x):
        return x * 2

    assert rm.udf(outputs=Y)(double) is double
    assert double(np.array([1.0])).tolist() == [2.0]


def test_a_function_takes_columns_by_name():
    def score(temperature, mean, std): ...

    declaration = declared(score, version=3)
    assert (declaration.kind, declaration.mode) == ("function", "columns")
    assert declaration.arguments == ("temperature", "mean", "std")
    assert declaration.version == 3
    assert [(field.name, str(field.type)) for field in declaration.outputs] == [("y", "float64")]
    assert declaration.out == "none"


def test_a_function_takes_a_batch():
    def score(batch: rm.Batch): ...

    declaration = declared(score)
    assert (declaration.mode, declaration.arguments) == ("batch", ())


def test_annotations_that_cannot_be_evaluated_are_read_as_text():
    def with_batch(batch: rm.Batch, *, limit: Unknown = None): ...
    def with_columns(x: Unknown): ...

    assert declared(with_batch).mode == "batch"
    assert declared(with_columns).mode == "columns"


def test_a_class_takes_columns_and_is_set_up_once():
    class Model:
        def setup(self) -> None:
            self.factor = 3

        def __call__(self, x):
            return x * self.factor

    declaration = declared(Model)
    assert (declaration.kind, declaration.arguments) == ("class", ("x",))
    assert declaration.instantiate()(2) == 6


@pytest.mark.parametrize("way", ["positional", "keyword"])
def test_out_is_no_column(way: str) -> None:
    def positional(x, out): ...
    def keyword(x, *, out): ...

    declaration = declared({"positional": positional, "keyword": keyword}[way])
    assert (declaration.arguments, declaration.out) == (("x",), way)


def test_keyword_only_parameters_with_defaults_are_constants():
    def score(x, *, threshold=3.0): ...

    assert declared(score).arguments == ("x",)


def test_types_are_read_from_annotations_and_inputs():
    def score(
        a: npt.NDArray[np.float64],
        b: npt.NDArray[np.floating],
        c: npt.NDArray[np.datetime64],
        d: rm.StringColumn,
        e: np.ndarray,
        f,
        g,
    ): ...

    accepts = declared(score, inputs={"g": rm.int8}).accepts
    assert accepts["a"] == ("float64",)
    assert accepts["b"] == ("float32", "float64")
    assert accepts["c"] == ("timestamp[s]", "timestamp[ms]", "timestamp[us]", "timestamp[ns]")
    assert accepts["d"] == ("utf8", "binary")
    assert accepts["g"] == ("int8",)
    assert set(accepts) == set("abcdg")


def test_input_is_checked_and_every_misfit_named():
    def score(a: npt.NDArray[np.float64], b, c): ...

    declaration = declared(score)
    declaration.check_input({"a": rm.float64, "b": rm.utf8, "c": rm.int8, "more": rm.int8})
    message = r"UDF .*score: column 'a': expected float64, got int64; column 'c' is missing \(its input has a: int64, b: utf8\)"
    with pytest.raises(rm.SchemaError, match=message):
        declaration.check_input({"a": rm.int64, "b": rm.utf8})


def columns_and_batch(x, batch: rm.Batch): ...
def two_batches(one: rm.Batch, two: rm.Batch): ...
def nothing(): ...
def star(*columns): ...
def stars(**columns): ...
def default(x, threshold=3.0): ...
def keyword(x, *, threshold): ...
def out_first(out, x): ...
def column(x): ...
def with_out(x, out): ...
async def coroutine(x): ...
def generator(x):
    yield x


class NoCall: ...


class NeedsArgument:
    def __init__(self, path): ...
    def __call__(self, x): ...


class SetupArgument:
    def setup(self, path): ...
    def __call__(self, x): ...


MISTAKES = [
    (column, {"outputs": None}, "column: outputs= is missing: write @rm.udf(outputs={'score': rm.float64})"),
    (column, {"outputs": {}}, "column: outputs= is empty"),
    (column, {"outputs": ["y"]}, "column: outputs= must be a dict of column name to type, got ['y']"),
    (
        column,
        {"outputs": {"y": float}},
        "outputs= must give 'y' a ringmill type such as rm.float64, got <class 'float'>; did you mean rm.float64?",
    ),
    (column, {"outputs": {"y": np.int32}}, "did you mean rm.int32?"),
    (column, {"outputs": {"y": "float64"}}, "did you mean rm.float64?"),
    (column, {"outputs": {"y": str}}, "did you mean rm.utf8?"),
    (column, {"outputs": {"y": bool}}, "did you mean rm.bool_?"),
    (column, {"outputs": {"y": rm.timestamp}}, 'call it: rm.timestamp("ms")'),
    (column, {"outputs": {"y": 3}}, "outputs= must give 'y' a ringmill type such as rm.float64, got 3"),
    (column, {"outputs": {3: rm.float64}}, "a column name in outputs= must be a non-empty str, got 3"),
    (column, {"outputs": {"": rm.float64}}, "must be a non-empty str, got ''"),
    (column, {"outputs": {"x": rm.float64}}, "output 'x' has the name of an input column"),
    (column, {"version": 0}, "version= must be an integer of at least 1, got 0"),
    (column, {"version": "1"}, "version= must be an integer of at least 1, got '1'"),
    (column, {"inputs": {"z": rm.int8}}, "inputs= names 'z', but there is no such parameter"),
    (column, {"inputs": {"x": int}}, "inputs= must give 'x' a ringmill type"),
    (columns_and_batch, {}, "takes either columns or one rm.Batch, not both (x, batch)"),
    (two_batches, {}, "takes either columns or one rm.Batch"),
    (nothing, {}, "nothing: it has no parameters"),
    (star, {}, "*columns names no column"),
    (stars, {}, "**columns names no column"),
    (default, {}, "parameter 'threshold' has a default, but columns have none; put a * before it"),
    (keyword, {}, "keyword-only parameter 'threshold' needs a default"),
    (out_first, {}, "the parameter out comes last"),
    (with_out, {"outputs": {"y": rm.utf8}}, "the parameter out needs outputs of fixed width, but 'y' is utf8"),
    (coroutine, {}, "cannot be async"),
    (generator, {}, "cannot be a generator"),
    (NoCall, {}, "NoCall: a class UDF needs a method __call__(self, ...)"),
    (NeedsArgument, {}, "__init__() is called without arguments, but needs 'path'"),
    (SetupArgument, {}, "setup() is called without arguments, but needs 'path'"),
    (3, {}, "@rm.udf goes on a function or a class, got 3"),
]


@pytest.mark.parametrize(("target", "options", "message"), MISTAKES)
def test_a_mistake_is_named_at_decoration(target: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(rm.DeclarationError, match=re.escape(message)):
        declared(target, **options)


def test_the_decorator_without_parentheses_is_a_mistake():
    with pytest.raises(rm.DeclarationError, match=r"@rm\.udf needs its outputs"):
        rm.udf(column)


def test_a_subclass_of_a_udf_is_not_one():
    @rm.udf(outputs=Y)
    class Model:
        def __call__(self, x): ...

    class Other(Model):
        def __call__(self, z): ...

    assert declaration_of(Model) is not None
    assert declaration_of(Model()) is not None
    assert declaration_of(Other) is None
    assert declaration_of(column) is None
