"""Per-key state without a core: a dict that does for a UDF in a test what the core's table does in a pipeline.

It cuts batches where a key comes again, hands each key's state to the UDF and takes the new one back. Nothing is
stored beyond the process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ._reader import Batch
from .errors import SchemaError
from .types import DataType
from .udf import Declaration

__all__ = ["KeyedState"]


class KeyedState:
    """The state of every key, by key: a value if there is one key column, else a tuple."""

    def __init__(
        self,
        declaration: Declaration,
        key: str | Sequence[str] | None,
        columns: Mapping[str, list[Any]],
        rows: Mapping[Any, Mapping[str, Any]] | None = None,
    ) -> None:
        """``columns`` are the input's key columns; ``rows`` is what was kept of earlier ones."""
        self._declaration = declaration
        names = key_columns(declaration, key)
        single = len(names) == 1
        self._keys = list(columns[names[0]]) if single else list(zip(*(columns[name] for name in names), strict=True))
        self._rows: dict[Any, tuple[Any, ...]] = {
            kept: tuple(values[field.name] for field in declaration.state) for kept, values in (rows or {}).items()
        }

    def batches(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The rows from ``start`` to ``end`` in pieces in which no key comes twice."""
        seen: set[Any] = set()
        first = start
        for row in range(start, end):
            if self._keys[row] in seen:
                yield first, row
                first = row
                seen.clear()
            seen.add(self._keys[row])
        if first < end or start == end:
            yield first, end

    def before(self, start: int, end: int) -> dict[str, Any]:
        """The state columns that go with these rows."""
        initial = tuple(field.initial for field in self._declaration.state)
        rows = [self._rows.get(key, initial) for key in self._keys[start:end]]
        return {
            field.name: np.array([row[index] for row in rows], dtype=field.initial.dtype)
            for index, field in enumerate(self._declaration.state)
        }

    def store(self, start: int, end: int, returned: Batch) -> None:
        """Keeps what the UDF returned for these rows."""
        columns = [returned[field.name] for field in self._declaration.state]
        for index, key in enumerate(self._keys[start:end]):
            self._rows[key] = tuple(column[index] for column in columns)

    def to_dict(self) -> dict[Any, dict[str, Any]]:
        """What is kept now."""
        names = [field.name for field in self._declaration.state]
        return {key: dict(zip(names, row, strict=True)) for key, row in self._rows.items()}


def key_columns(declaration: Declaration, key: str | Sequence[str] | None) -> tuple[str, ...]:
    """The key columns, checked against what the UDF is."""
    names = (key,) if isinstance(key, str) else tuple(key or ())
    if declaration.state and not names:
        raise SchemaError(f"UDF {declaration.name} keeps state for each key: say of which column, key='device_id'")
    if names and not declaration.state:
        raise SchemaError(f"UDF {declaration.name} keeps no state=, so key= has no effect")
    return names


def check_columns(declaration: Declaration, key: tuple[str, ...], given: Mapping[str, DataType]) -> None:
    """SchemaError unless the input has the key columns and leaves the state's names free."""
    for name in key:
        if name not in given:
            raise SchemaError(f"UDF {declaration.name}: key column {name!r} is missing (its input has {', '.join(given)})")
    for field in declaration.state:
        if field.name in given:
            raise SchemaError(
                f"UDF {declaration.name}: its input has a column {field.name!r} already; give the state another name"
            )
