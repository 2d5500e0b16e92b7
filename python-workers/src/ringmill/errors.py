"""What Ringmill raises, so that a caller can tell one cause from another.

:class:`DeclarationError` at decoration, :class:`SchemaError` before the first row, :class:`OutputError` for one
batch; :class:`Full`, :class:`Disconnected` and :class:`Refused` where rows are sent; :class:`Retry` and :class:`Reject`
are for sinks to raise. :class:`OutputError` is made by the reader, which checks every result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._reader import OutputError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = [
    "DeclarationError",
    "Disconnected",
    "Full",
    "LoadError",
    "OutputError",
    "Refused",
    "Reject",
    "Retry",
    "SchemaError",
]


class DeclarationError(TypeError):
    """A function or class cannot be a UDF the way it is written; the message names the mistake."""


class SchemaError(ValueError):
    """A UDF and the columns it would be given do not fit."""


class LoadError(ImportError):
    """``module:name`` of a pipeline file leads to no UDF, no source, or no sink."""


class Full(Exception):
    """A pipeline is behind, and a producer was not to wait (any longer)."""

    sent: int = 0
    """Rows of the call that were sent nevertheless."""


class Disconnected(ConnectionError):
    """The pipeline that rows were sent to has ended or died. Connect again: ``position`` then says where to go on."""


class Refused(ConnectionError):
    """A pipeline does not let a producer in, or has sent it away; the message says why."""


class Retry(Exception):
    """Raised by a sink's ``write()`` or ``setup()``: its target is away or busy, and the rows are to come again later.

    The pipeline says why, once, and tries again after a second, then later and later up to 10 s, for as long as it takes.
    """


class Reject(Exception):
    """Raised by a sink's ``write()`` when all rows of the batch are written but some, which never will be.

    ``rows`` are these: their places in the batch (integers, shape (n,), or one of them), or a mask (bool, shape (rows,)). With
    ``on_refused = "dead_letter"`` in the pipeline file they become dead letters of the sink with this ``reason``
    (its first KiB), and all others count as written; otherwise the run ends. If there are none of them, everything is
    written.
    """

    def __init__(self, rows: ArrayLike, reason: str) -> None:
        super().__init__(reason)
        self.rows = rows
        self.reason = reason
