"""Runs UDFs, reads sources and feeds sinks in a test: with the checks and conversions of a worker, and with no core.

::

    from ringmill import testing

    def test_scores():
        result = testing.run(anomaly_score, {"temperature": [21.0, 35.0], "mean": [20.0, 20.0], "std": [1.0, 1.0]})
        assert result["score"].tolist() == [1.0, 15.0]

    def test_replays_after_a_crash_give_the_same():
        testing.assert_row_wise(anomaly_score, {...})

    def test_every_row_comes_once_wherever_the_source_is_interrupted():
        testing.assert_seekable(Numbers, {"number": rm.int64}, options={"count": 1000})

    def test_rows_that_come_again_change_nothing(tmp_path):
        testing.deliver(Alerts, {"device": ["a", "b"]}, options={"path": str(tmp_path / "alerts.db")})

The function gets read-only arrays over memory laid out as in a ring, and what it returns is checked as there.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from . import _reader, types
from ._reader import Batch, ListColumn, StringColumn
from .keyed import KeyedState, check_columns, key_columns
from .sink import Sink, check_sink
from .sink_worker import Rejected, Taker
from .source import End, Source, check_source, has_seek, position_text, row_count
from .types import DataType
from .udf import Declaration, Field, declaration_of

__all__ = [
    "Columns",
    "Polled",
    "Result",
    "assert_row_wise",
    "assert_seekable",
    "batch",
    "deliver",
    "is_row_wise",
    "poll",
    "run",
]

Columns = Mapping[str, Any] | Batch
"""Columns by name: arrays, lists, or Arrow data; or a batch."""

_BYTES_PER_OUTPUT_ROW = 64 * 1024
"""Room for text and lists that a UDF returns, generous since nothing waits for it in a test."""


class Result(Mapping[str, Any]):
    """What a UDF returned, by column: arrays, :class:`ringmill.StringColumn`, :class:`ringmill.ListColumn`."""

    def __init__(self, batch: Batch, state: Mapping[Any, Mapping[str, Any]] | None = None) -> None:
        self.batch = batch
        """The same as a batch, for Arrow consumers."""
        self.state = state or {}
        """What is kept now for each key that was seen, if the UDF keeps state."""

    def __getitem__(self, name: str) -> Any:
        return self.batch[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.batch.columns)

    def __len__(self) -> int:
        return len(self.batch.columns)

    def to_dict(self) -> dict[str, list[Any]]:
        """All values as Python objects."""
        return {name: _as_list(self.batch[name]) for name in self.batch.columns}


def run(
    udf: Any,
    columns: Columns,
    *,
    schema: Mapping[str, DataType] | None = None,
    key: str | Sequence[str] | None = None,
    state: Mapping[Any, Mapping[str, Any]] | None = None,
) -> Result:
    """Call a UDF (a decorated function, class, or instance of one) on these columns, as a worker would.

    A class is instantiated and set up first. Types are taken from ``schema``, else from what the UDF says it takes
    (``inputs=``, annotations), else from the data. A UDF that keeps state needs ``key``, the step's key columns; it is then
    called for as many rows at a time as have different keys, and ``state`` goes on from an earlier ``Result.state``. Raises
    whatever the UDF raises; :class:`ringmill.OutputError` if its
    result does not fit; :class:`ringmill.SchemaError` if the columns do not.
    """
    declaration = _declaration(udf)
    given = columns if isinstance(columns, Batch) else batch(columns, schema=_schema_for(declaration, columns, schema))
    function = _callable(udf, declaration)
    keyed = _keyed(declaration, key, given, state)
    if keyed is None:
        return Result(_call(declaration, function, given))
    parts = list(_call_by_key(declaration, function, given, keyed, 0, len(given)))
    return Result(_joined(declaration.outputs, parts), keyed.to_dict())


def batch(columns: Mapping[str, Any], *, schema: Mapping[str, DataType] | None = None) -> Batch:
    """A :class:`ringmill.Batch` of these columns, in this process's memory.

    ``schema`` gives the types of some or all columns; those of the others are taken from the data.
    """
    known = dict(schema or {})
    values = {name: value if hasattr(value, "__len__") else np.asarray(value) for name, value in columns.items()}
    fields = {name: known.get(name) or _type_of(name, value) for name, value in values.items()}
    rows = max((len(value) for value in values.values()), default=0)
    room = max((_bytes_of(value) for value in values.values()), default=0)
    return _reader.make_batch(_fields(fields), dict(values), rows, (max(rows, 1), room))


def deliver(
    sink: type[Sink],
    columns: Columns,
    *,
    schema: Mapping[str, DataType] | None = None,
    options: Mapping[str, Any] | None = None,
    rows_max: int = 8192,
    row_id: str = "test/1",
) -> dict[int, str]:
    """Give a sink these rows as its process would: ``setup()``, ``write()`` for each ``rows_max`` of them, ``close()``.

    Their identities are ``row_id`` and the numbers from 0 on. Given again, also with another ``rows_max``, they are the same
    rows, and what the sink writes to should be as before: that is what ``idempotent = true`` says. Types are taken from
    ``schema``, else from the data. Returns the numbers of the rows that it rejects (:class:`ringmill.Reject`), each with
    the reason. Raises whatever else the class raises.
    """
    given = columns if isinstance(columns, Batch) else batch(columns, schema=schema)
    taker = Taker(check_sink(sink, sink.__name__, options or {})(**(options or {})))
    taker.set_up()
    rejected: dict[int, str] = {}
    for start in range(0, len(given), rows_max):
        try:
            taker(_slice(given, start, min(start + rows_max, len(given)), row_id=row_id))
        except Rejected as error:
            rejected.update((start + row, error.reason) for row in error.rows)
    taker.sink.close()
    return rejected


class Polled(NamedTuple):
    """What a source had at a time."""

    batch: Batch
    """Its rows, converted to the columns' types as in a worker."""
    position: Any
    """Where it stood behind them; None if it has no ``position()``."""


def poll(
    source: type[Source],
    schema: Mapping[str, DataType],
    *,
    options: Mapping[str, Any] | None = None,
    partition: str = "0",
    position: Any = None,
    rows_max: int | Sequence[int] = 1024,
    polls_max: int = 1000,
) -> list[Polled]:
    """Read a source as its process would, until it says :data:`ringmill.End` or was polled ``polls_max`` times.

    ``schema`` has the columns that the pipeline file declares as ``fields``; ``position`` is where it goes on, as an earlier
    :attr:`Polled.position` says. ``rows_max`` may be several numbers, which take turns. Raises whatever the class raises;
    :class:`ringmill.OutputError` if rows or position do not fit.
    """
    source = check_source(source, source.__name__, options or {})
    reader, name = source(**(options or {})), source.__name__
    stands = has_seek(source)
    if stands:
        position_text(name, reader.position(partition))
    if position is not None:
        reader.seek(partition, json.loads(position_text(name, position)))
    limits = [rows_max] if isinstance(rows_max, int) else list(rows_max)
    polled = []
    try:
        for turn in range(polls_max):
            rows = reader.poll(partition, limits[turn % len(limits)])
            if rows is End:
                break
            count = 0 if rows is None else row_count(name, rows, limits[turn % len(limits)])
            text = position_text(name, reader.position(partition)) if stands else None
            if count > 0:
                made = _reader.make_batch(_fields(schema), rows, count, (count, _BYTES_PER_OUTPUT_ROW * count), f"source {name}")
                polled.append(Polled(made, None if text is None else json.loads(text)))
    finally:
        reader.close()
    return polled


def assert_seekable(
    source: type[Source],
    schema: Mapping[str, DataType],
    *,
    options: Mapping[str, Any] | None = None,
    partition: str = "0",
    rows_max: int = 1024,
    polls_max: int = 100,
    seed: int = 0,
) -> None:
    """Fail unless an instance that seeks a position gives the rows that followed it the first time, in the same order.

    That is what makes every row count once when a process or the core dies. The source is read for ``polls_max`` polls; then,
    from each position that it had, by another instance that is asked for other numbers of rows (the same for the same
    ``seed``). It has to end, or to have something at every poll.
    """
    if not has_seek(source):
        raise AssertionError(f"source {source.__name__} has no seek()")
    settings: dict[str, Any] = {"options": options, "partition": partition}
    first = poll(source, schema, rows_max=rows_max, polls_max=polls_max, **settings)
    rows = [row for polled in first for row in _rows(polled.batch)]
    chance, taken = random.Random(seed), 0
    for polled in first:
        taken += len(polled.batch)
        limits = [chance.randint(1, rows_max) for _ in range(8)]
        wanted = len(rows) - taken
        again = poll(source, schema, position=polled.position, rows_max=limits, polls_max=max(4 * wanted, 1), **settings)
        found = [row for other in again for row in _rows(other.batch)][:wanted]
        wrong = next((at for at in range(wanted) if at >= len(found) or found[at] != rows[taken + at]), None)
        if wrong is not None:
            got = repr(found[wrong]) if wrong < len(found) else "no more rows"
            raise AssertionError(
                f"source {source.__name__}: row {wrong} behind position {polled.position!r} was "
                f"{rows[taken + wrong]!r}, and after seek() it is {got}"
            )


def _rows(batch: Batch) -> list[tuple[Any, ...]]:
    """Rows that can be compared: a NaN is equal to itself."""
    columns = [[repr(value) if value != value else value for value in _as_list(batch[name])] for name in batch.columns]
    return list(zip(*columns, strict=True))


def is_row_wise(
    udf: Any,
    columns: Columns,
    *,
    schema: Mapping[str, DataType] | None = None,
    key: str | Sequence[str] | None = None,
    splits: int = 20,
    seed: int = 0,
    relative_tolerance: float = 0.0,
) -> bool:
    """Whether results stay the same however the rows are cut into batches. See :func:`assert_row_wise`."""
    return _first_difference(udf, columns, schema, key, splits, seed, relative_tolerance) is None


def assert_row_wise(
    udf: Any,
    columns: Columns,
    *,
    schema: Mapping[str, DataType] | None = None,
    key: str | Sequence[str] | None = None,
    splits: int = 20,
    seed: int = 0,
    relative_tolerance: float = 0.0,
) -> None:
    """Fail unless the UDF gives the same results however the rows are cut into batches.

    After a crash and recovery batch boundaries may differ, so only such a UDF is sure to give the same results
    again. The rows are cut at random places ``splits`` times (the same for the same ``seed``); each time a class UDF
    starts anew and sees all batches in order, so state that follows the rows is fine; one with ``snapshot()`` is replaced
    at one of the cuts by another instance that is restored. With per-key state (``key`` names the
    step's key columns) the states after each row are compared as well. Floats must be equal to the
    last bit unless ``relative_tolerance`` allows for rounding.
    """
    difference = _first_difference(udf, columns, schema, key, splits, seed, relative_tolerance)
    if difference is not None:
        raise AssertionError(difference)


def _first_difference(
    udf: Any,
    columns: Columns,
    schema: Mapping[str, DataType] | None,
    key: str | Sequence[str] | None,
    splits: int,
    seed: int,
    relative_tolerance: float,
) -> str | None:
    declaration = _declaration(udf)
    given = columns if isinstance(columns, Batch) else batch(columns, schema=_schema_for(declaration, columns, schema))
    rows = len(given)
    whole = _in_batches(declaration, given, key, [])
    chosen = random.Random(seed)
    for split in range(splits):
        # One row at a time is the hardest cut; the others are anything.
        cuts = list(range(1, rows)) if split == 0 else sorted(chosen.sample(range(1, rows), chosen.randint(0, max(rows - 1, 0))))
        parts = _in_batches(declaration, given, key, cuts)
        for name, expected in whole.items():
            for row, (one, other) in enumerate(zip(expected, parts[name], strict=True)):
                if not _equal(one, other, relative_tolerance):
                    return (
                        f"UDF {declaration.name} is not row-wise: column {name!r}, row {row} is {one!r} "
                        f"in one batch of {rows} rows, but {other!r} with batches cut at {cuts}"
                    )
    return None


def _in_batches(
    declaration: Declaration, given: Batch, key: str | Sequence[str] | None, cuts: Sequence[int]
) -> dict[str, list[Any]]:
    """What a new instance returns that is given the rows in several batches."""
    bounds = [0, *cuts, len(given)]
    keyed = _keyed(declaration, key, given, None)
    successions = cuts[len(cuts) // 2 :][:1] if declaration.has_snapshot else []
    parts: list[Batch] = []
    function: Any = declaration.instantiate()
    for start, end in pairwise(bounds):
        if start in successions:
            # As after a crash: another worker goes on from what this one has learnt.
            learnt = bytes(function.snapshot())
            function = declaration.instantiate()
            function.restore(learnt)
        if keyed is None:
            parts.append(_call(declaration, function, _slice(given, start, end)))
        else:
            parts.extend(_call_by_key(declaration, function, given, keyed, start, end))
    results: dict[str, list[Any]] = {field.name: [] for field in declaration.returned}
    for part in parts:
        for name, values in Result(part).to_dict().items():
            results[name].extend(values)
    return results


def _keyed(
    declaration: Declaration,
    key: str | Sequence[str] | None,
    given: Batch,
    state: Mapping[Any, Mapping[str, Any]] | None,
) -> KeyedState | None:
    names = key_columns(declaration, key)
    if not declaration.state:
        return None
    check_columns(declaration, names, given.schema)
    return KeyedState(declaration, names, {name: _as_list(given[name]) for name in names}, state)


def _call_by_key(
    declaration: Declaration, function: Any, given: Batch, keyed: KeyedState, first: int, last: int
) -> Iterator[Batch]:
    """Outputs and new states of each piece of the rows in which no key comes twice."""
    kept = {field.name: field.type for field in declaration.state}
    for start, end in keyed.batches(first, last):
        part = _slice(given, start, end, keyed.before(start, end), kept)
        returned = _call(declaration, function, part)
        keyed.store(start, end, returned)
        yield returned


def _joined(fields: Sequence[Field], parts: Sequence[Batch]) -> Batch:
    """One batch of these columns from several."""
    columns: dict[str, Any] = {}
    for field in fields:
        values = [part[field.name] for part in parts]
        if all(isinstance(value, np.ndarray) for value in values):
            # NumPy's stubs do not type the masked one.
            concatenate: Any = np.ma.concatenate if field.type.nullable else np.concatenate
            columns[field.name] = concatenate(values)
        else:
            columns[field.name] = [item for value in values for item in value]
    return batch(columns, schema={field.name: field.type for field in fields})


def _call(declaration: Declaration, function: Any, given: Batch) -> Batch:
    declaration.check_input(given.schema)
    return _reader.run_udf(
        given,
        outputs=[(field.name, field.type.name, field.type.nullable) for field in declaration.returned],
        capacity=(max(len(given), 1), min(max(len(given), 1) * _BYTES_PER_OUTPUT_ROW, 1 << 27)),
        udf=function,
        name=declaration.name,
        mode=declaration.mode,
        arguments=declaration.arguments,
        out=declaration.out,
    )


def _declaration(udf: Any) -> Declaration:
    declaration = declaration_of(udf)
    if declaration is None:
        raise TypeError(f"{udf!r} is not a UDF: decorate it with @rm.udf(outputs={{...}})")
    return declaration


def _callable(udf: Any, declaration: Declaration) -> Any:
    return declaration.instantiate() if udf is declaration.target else udf


def _slice(
    given: Batch,
    start: int,
    end: int,
    more: Mapping[str, Any] | None = None,
    types_of_more: Mapping[str, DataType] | None = None,
    row_id: str = "",
) -> Batch:
    """Some rows, and further columns that were made for them."""
    values = {name: given[name][start:end] for name in given.columns} | dict(more or {})
    room = max((_bytes_of(value) for value in values.values()), default=0)
    fields = _fields({**given.schema, **(types_of_more or {})})
    return _reader.make_batch(fields, values, end - start, (max(end - start, 1), room), identity=(row_id, start))


def _fields(schema: Mapping[str, DataType]) -> list[tuple[str, str, bool]]:
    return [(name, data_type.name, data_type.nullable) for name, data_type in schema.items()]


def _schema_for(
    declaration: Declaration, columns: Mapping[str, Any], schema: Mapping[str, DataType] | None
) -> dict[str, DataType]:
    """The types that are given, and those that follow from the declaration where the data leave a choice."""
    known = dict(schema or {})
    for name, accepted in declaration.accepts.items():
        if name in columns and name not in known and isinstance(columns[name], Sequence):
            nullable = any(value is None for value in columns[name])
            guess = _type_of(name, columns[name])
            if guess.name not in accepted:
                known[name] = types.from_name(accepted[0], is_nullable=nullable)
    return known


def _type_of(name: str, value: Any) -> DataType:
    if isinstance(value, (StringColumn, ListColumn)):
        return types.from_name(value.data_type, is_nullable=value.null_count > 0)
    if isinstance(value, np.ma.MaskedArray):
        return types.nullable(_type_of_array(name, value.data))
    if hasattr(value, "__arrow_c_array__") or hasattr(value, "__arrow_c_stream__"):
        raise TypeError(f"column {name!r}: give its type in schema=, Arrow data are not looked into for it")
    if isinstance(value, np.ndarray) and value.dtype.kind not in "OUT":
        return _type_of_array(name, value)
    values = value.tolist() if isinstance(value, np.ndarray) else list(value)
    present = [item for item in values if item is not None]
    if present and all(isinstance(item, str) for item in present):
        found = types.utf8
    elif present and all(isinstance(item, bytes) for item in present):
        found = types.binary
    elif present and all(isinstance(item, (list, tuple, np.ndarray)) for item in present):
        items = [np.asarray(item) for item in present if len(item)]
        found = types.list_(_type_of_array(name, np.concatenate(items))) if items else types.list_(types.float64)
    elif present:
        found = _type_of_array(name, np.asarray(present))
    else:
        found = types.float64
    return types.nullable(found) if len(present) < len(values) else found


def _type_of_array(name: str, array: npt.NDArray[Any]) -> DataType:
    if array.ndim == 2:
        return types.list_(_type_of_array(name, array[:, 0]))
    kind = array.dtype.kind
    try:
        if kind == "M":
            return types.from_name(f"timestamp[{np.datetime_data(array.dtype)[0]}]")
        return types.binary if kind == "S" else types.from_name(array.dtype.name)
    except ValueError:
        raise TypeError(f"column {name!r}: {array.dtype} is no column type; give a schema= or convert it") from None


def _bytes_of(value: Any) -> int:
    """At least the bytes that the column's values take, if it is variable."""
    if isinstance(value, (StringColumn, ListColumn)):
        return int((value.bytes if isinstance(value, StringColumn) else value.values).nbytes)
    if isinstance(value, np.ndarray) and value.dtype.kind not in "OUT":
        return int(value.nbytes)
    if hasattr(value, "nbytes") and not isinstance(value, np.ndarray):
        return int(value.nbytes)
    items = value.tolist() if isinstance(value, np.ndarray) else list(value)
    return sum(_bytes_of_item(item) for item in items)


def _bytes_of_item(item: Any) -> int:
    if isinstance(item, str):
        return len(item.encode("utf-8", "surrogatepass"))
    if isinstance(item, np.ndarray):
        return int(item.nbytes)
    return 8 * len(item) if hasattr(item, "__len__") else 0


def _as_list(column: Any) -> list[Any]:
    if isinstance(column, np.ndarray):
        return list(column.astype(object)) if column.dtype.kind == "M" else list(column.tolist())
    return [item.tolist() if isinstance(item, np.ndarray) else item for item in column]


def _equal(one: Any, other: Any, relative_tolerance: float) -> bool:
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(_equal(a, b, relative_tolerance) for a, b in zip(one, other, strict=True))
    if isinstance(one, float) and isinstance(other, float):
        # NaN is the same result as NaN.
        return math.isclose(one, other, rel_tol=relative_tolerance) or (math.isnan(one) and math.isnan(other))
    return bool(one == other)
