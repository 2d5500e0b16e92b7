"""Column types, as written in ``outputs=`` and ``inputs=`` of a UDF.

A type is a value, compared by what it says: ``timestamp("ms") == timestamp("ms")``. Its name is the one the
core, the pipeline file and error messages use (``"float64"``, ``"timestamp[ms]"``, ``"list[float64]"``).
This module knows names only; what a type looks like in memory is the core's business.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

__all__ = [
    "DataType",
    "binary",
    "bool_",
    "float32",
    "float64",
    "int8",
    "int16",
    "int32",
    "int64",
    "list_",
    "nullable",
    "timestamp",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "utf8",
]


@dataclass(frozen=True, slots=True)
class DataType:
    """The type of one column; use the constants and functions of this module to get one."""

    name: str
    """The type's name without nullability, for example ``"timestamp[ms]"``."""

    nullable: bool = False
    """Whether rows may be null."""

    def __str__(self) -> str:
        return f"nullable {self.name}" if self.nullable else self.name

    def __repr__(self) -> str:
        return f"nullable({_expression(self.name)})" if self.nullable else _expression(self.name)


bool_ = DataType("bool")
"""True or false; a NumPy ``bool`` array."""
int8 = DataType("int8")
int16 = DataType("int16")
int32 = DataType("int32")
int64 = DataType("int64")
uint8 = DataType("uint8")
uint16 = DataType("uint16")
uint32 = DataType("uint32")
uint64 = DataType("uint64")
float32 = DataType("float32")
float64 = DataType("float64")
utf8 = DataType("utf8")
"""Text; a :class:`ringmill.StringColumn` whose items are ``str``."""
binary = DataType("binary")
"""Bytes; a :class:`ringmill.StringColumn` whose items are ``bytes``."""

_FIXED = (int8, int16, int32, int64, uint8, uint16, uint32, uint64, float32, float64)
_UNITS = ("s", "ms", "us", "ns")


def timestamp(unit: Literal["s", "ms", "us", "ns"]) -> DataType:
    """A point in time, UTC, counted in ``unit`` since 1970; a NumPy ``datetime64[unit]`` array."""
    if unit not in _UNITS:
        raise ValueError(f"timestamp unit must be one of {', '.join(_UNITS)}, got {unit!r}")
    return DataType(f"timestamp[{unit}]")


def list_(item: DataType) -> DataType:
    """A list of ``item`` per row; a :class:`ringmill.ListColumn`. Items are numbers or timestamps, never null."""
    if not isinstance(item, DataType):
        raise TypeError(f"list_() takes a ringmill type such as rm.float64, got {item!r}")
    if item.nullable or (item not in _FIXED and not item.name.startswith("timestamp[")):
        raise ValueError(f"list items must be non-null numbers or timestamps, got {item}")
    return DataType(f"list[{item.name}]")


def nullable(data_type: DataType) -> DataType:
    """The same type, with nulls allowed."""
    if not isinstance(data_type, DataType):
        raise TypeError(f"nullable() takes a ringmill type such as rm.float64, got {data_type!r}")
    return replace(data_type, nullable=True)


def from_name(name: str, *, is_nullable: bool = False) -> DataType:
    """The type called ``name`` in pipeline files and messages; ValueError for any other text."""
    head, bracket, inner = name.partition("[")
    if bracket and inner.endswith("]"):
        inner = inner[:-1]
        if head == "timestamp" and inner in _UNITS:
            found = DataType(name)
        elif head == "list":
            found = list_(from_name(inner))
        else:
            raise ValueError(f"{name!r} is not a type")
    elif name in ("bool", "utf8", "binary") or DataType(name) in _FIXED:
        found = DataType(name)
    else:
        raise ValueError(f"{name!r} is not a type")
    return nullable(found) if is_nullable else found


def _expression(name: str) -> str:
    """How ``name`` is spelt in Python code."""
    head, bracket, inner = name.partition("[")
    if not bracket:
        return "ringmill.bool_" if name == "bool" else f"ringmill.{name}"
    inner = inner[:-1]
    return f'ringmill.timestamp("{inner}")' if head == "timestamp" else f"ringmill.list_({_expression(inner)})"
