"""What Ringmill raises, so that a caller can tell one cause from another.

:class:`DeclarationError` at decoration, :class:`SchemaError` before the first row, :class:`OutputError` for one
batch. The last is made by the reader, which checks every result.
"""

from __future__ import annotations

from ._reader import OutputError

__all__ = ["DeclarationError", "LoadError", "OutputError", "SchemaError"]


class DeclarationError(TypeError):
    """A function or class cannot be a UDF the way it is written; the message names the mistake."""


class SchemaError(ValueError):
    """A UDF and the columns it would be given do not fit."""


class LoadError(ImportError):
    """``module:name`` of a pipeline file leads to no UDF, or no source."""
