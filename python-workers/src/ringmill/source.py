"""Sources written in Python: a class that is asked for rows, in a process of its own.

::

    class Numbers(rm.Source):
        def __init__(self, first: int = 0) -> None:
            self.next = first

        def poll(self, partition: str, rows_max: int) -> rm.Rows:
            rows = np.arange(self.next, self.next + rows_max)
            self.next += rows_max
            return {"number": rows}

        def position(self, partition: str) -> int:
            return self.next

        def seek(self, partition: str, position: int) -> None:
            self.next = position

A pipeline file names it (``kind = "python"``, ``class = "module:Numbers"``) with the columns that it gives and the keyword
arguments of its ``__init__`` (``options``). :mod:`ringmill.testing` reads it without the engine.
"""

from __future__ import annotations

import enum
import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from .errors import LoadError, OutputError

__all__ = ["End", "Rows", "Source", "check_source", "has_partitions", "has_seek", "partitions_of", "position_text", "row_count"]

_PARTITIONS_MAX = 1024
_POSITION_BYTES_MAX = 16 * 1024 - 1


class _End(enum.Enum):
    END = "end"


End: Final = _End.END
"""What ``poll()`` returns when there will be no more rows in the partition."""

Rows: TypeAlias = Any
"""What ``poll()`` may return: a mapping of columns by name (arrays, lists, Arrow data, each of shape (rows,)), a PyArrow
table or record batch, a Polars frame; None for nothing now; :data:`End`."""


class Source:
    """Base of a class that is a source. There is a process, and in it an instance, for each partition.

    ``__init__`` takes the ``options`` of the pipeline file as keyword arguments. It connects to whatever is read, and may be
    called again at any time: a process that dies is followed by another. With ``position()`` and ``seek()`` every row then
    comes once, as exactly as ``seek()`` goes back; without them, rows that were polled and not taken are lost.
    """

    def partitions(self) -> Sequence[str]:
        """Names of what is read side by side, at most 1024, the same in every run: ``["0"]`` unless it says otherwise.

        Asked once, before anything is read, of an instance that lives for nothing else.
        """
        return ["0"]

    def poll(self, partition: str, rows_max: int) -> Rows:
        """The next rows, at most ``rows_max``; None if there is nothing now; :data:`End` if there will be no more.

        It may wait for rows, best not much longer than 0.1 s: while it does, nothing else is done, and a run that is to end
        waits up to 10 s before the process is killed. One that returned None is asked again after 1 to 32 ms. When it raises,
        it is asked again after ``seek()`` as often as ``retries`` of the pipeline file says; then the run ends.
        """
        raise NotImplementedError(f"{type(self).__name__} has no poll()")

    def position(self, partition: str) -> Any:
        """Where the rows stand that ``poll()`` has returned so far: whatever ``seek()`` needs to go on behind them.

        JSON values of at most 16 KiB (tuples come back as lists), None among them, asked after every ``poll()`` and once before
        the first: a process that dies before it had rows is followed by one that seeks that position.
        """
        raise NotImplementedError

    def seek(self, partition: str, position: Any) -> None:
        """Go on behind ``position``: the next rows must be those that followed it the first time, in the same order."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of what ``__init__`` has opened: the run has come to its end. Not called when a process is killed."""


def has_partitions(source: type[Source]) -> bool:
    """Whether a class says which partitions it has."""
    return source.partitions is not Source.partitions


def has_seek(source: type[Source]) -> bool:
    """Whether a class can go on from a position."""
    return source.seek is not Source.seek


def check_source(target: object, reference: str, options: Mapping[str, Any]) -> type[Source]:
    """``target`` if it is a source that takes these options; raises :class:`LoadError` otherwise."""
    if not (isinstance(target, type) and issubclass(target, Source)):
        raise LoadError(f"{reference} is not a source: derive a class from rm.Source")
    name = target.__name__
    if target.poll is Source.poll:
        raise LoadError(f"source {name} has no poll(self, partition, rows_max)")
    if has_seek(target) != (target.position is not Source.position):
        one, other = ("seek", "position") if has_seek(target) else ("position", "seek")
        raise LoadError(f"source {name} has {one}() and no {other}(): a source that goes on from a position needs both")
    try:
        inspect.signature(target).bind(**options)
    except TypeError as error:
        raise LoadError(f"source {name} does not take these options: {error}") from None
    return target


def partitions_of(source: Source) -> list[str]:
    """The names of its partitions, checked."""
    name, names = type(source).__name__, source.partitions()
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise OutputError(f"source {name}: partitions(): expected a list of names, got {names!r}")
    for partition in names:
        if not (isinstance(partition, str) and partition):
            raise OutputError(f"source {name}: partitions(): expected names, strings that are not empty, got {partition!r}")
        if not _is_text(partition):
            raise OutputError(f"source {name}: partitions(): expected names of Unicode characters, got {partition!r}")
    if not 1 <= len(names) <= _PARTITIONS_MAX:
        raise OutputError(f"source {name}: partitions(): expected 1 to {_PARTITIONS_MAX} names, got {len(names)}")
    if twice := next((partition for partition in names if names.count(partition) > 1), None):
        raise OutputError(f"source {name}: partitions(): expected different names, got {twice!r} twice")
    return list(names)


def row_count(source: str, rows: Rows, rows_max: int) -> int:
    """How many rows ``poll()`` has returned; raises :class:`OutputError` if that cannot be told, or are too many."""
    column, value = "", rows
    if isinstance(rows, Mapping):
        column, value = next(iter(rows.items()), ("", None))
    elif isinstance(rows, tuple):
        value = rows[0] if rows else None
    try:
        count = len(value)
    except TypeError:
        expected = "values, one for each row" if column else "columns by name, a table, None or rm.End"
        at = f" column {column!r}:" if column else ""
        raise OutputError(f"source {source}: poll():{at} expected {expected}, got {_described(value)}") from None
    if count > rows_max:
        raise OutputError(f"source {source}: poll(): expected at most {rows_max} rows (rows_max), got {count}")
    return count


def position_text(source: str, position: Any) -> str:
    """A position as the JSON that is kept of it, ASCII; raises :class:`OutputError` if it is none, or too long."""
    try:
        text = json.dumps(position, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise OutputError(f"source {source}: position(): expected JSON values, got {position!r:.200}: {error}") from None
    if len(text) > _POSITION_BYTES_MAX:
        expected = f"at most {_POSITION_BYTES_MAX} bytes as JSON"
        raise OutputError(f"source {source}: position(): expected {expected}, got {len(text)}")
    return text


def _is_text(name: str) -> bool:
    """Whether it can be told to the core: one with half of a surrogate pair cannot."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _described(value: object) -> str:
    return "nothing" if value is None else f"{type(value).__name__} {value!r:.80}"
