"""Sinks written in Python: a class that is given rows, in a process of its own.

::

    class Alerts(rm.Sink):
        def __init__(self, path: str) -> None:
            self.path = path

        def setup(self) -> None:
            self.database = sqlite3.connect(self.path)

        def write(self, batch: rm.Batch) -> None:
            rows = zip(itertools.repeat(batch.id), batch.row_numbers.tolist(), batch["device"], strict=False)
            with self.database:
                self.database.executemany("INSERT OR IGNORE INTO alerts VALUES (?, ?, ?)", rows)

A pipeline file names it (``kind = "python"``, ``class = "module:Alerts"``) with the keyword arguments of its ``__init__``
(``options``). :func:`ringmill.testing.deliver` gives it rows without the engine.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from ._reader import Batch
from .errors import LoadError

__all__ = ["Sink", "check_sink"]


class Sink:
    """Base of a class that is a sink. There is one process, and in it one instance, for all shards.

    ``__init__`` takes the ``options`` of the pipeline file as keyword arguments. A process that dies is followed by another,
    which is given the batch again that the dead one has not said it took.
    """

    def setup(self) -> None:
        """Connect to whatever is written to: called once in each process, before the first batch.

        Raise :class:`~ringmill.Retry` when it is away; then it is called again before each ``write()``, until it returns.
        Any other exception ends a run that begins, and costs a process that follows another its life.
        """

    def write(self, batch: Batch) -> None:
        """Put the rows of ``batch`` where they belong; they count as written when this returns.

        Columns are read-only views of shared memory: NumPy arrays of shape (rows,) and the column's dtype, masked where values
        may be missing, and :class:`~ringmill.StringColumn` or :class:`~ringmill.ListColumn`. Batches come one after the other
        and in order.

        A row may come more than once, after a kill of this process, a kill of the core, or an exception. It is told by
        ``batch.id`` (a short text) and ``batch.row_numbers`` (uint64, shape (rows,)), which are then the same: with
        ``[checkpoint]`` always, without it within one run. They may be cut into other batches, so a key is made of both, not
        of the batch.

        Raise :class:`~ringmill.Retry` when the target is away, and :class:`~ringmill.Reject` when it has taken all rows but
        some that it never will. Any other exception is tried again as often as ``retries`` of the pipeline file says; then
        the run ends.
        """
        raise NotImplementedError(f"{type(self).__name__} has no write()")

    def close(self) -> None:
        """Let go of what ``setup()`` has opened: the run has come to its end. Not called when a process is killed."""


def check_sink(target: object, reference: str, options: Mapping[str, Any]) -> type[Sink]:
    """``target`` if it is a sink that takes these options; raises :class:`LoadError` otherwise."""
    if not (isinstance(target, type) and issubclass(target, Sink)):
        raise LoadError(f"{reference} is not a sink: derive a class from rm.Sink")
    name = target.__name__
    if target.write is Sink.write:
        raise LoadError(f"sink {name} has no write(self, batch)")
    try:
        inspect.signature(target).bind(**options)
    except TypeError as error:
        raise LoadError(f"sink {name} does not take these options: {error}") from None
    return target
