"""Per-key state of a UDF: columns that the core keeps for each key, stores in checkpoints and hands back with the rows.

This module knows what a state column is and how it begins; where it is kept is the core's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .types import DataType

__all__ = ["State", "StateField"]


@dataclass(frozen=True, slots=True)
class State:
    """A state column with the value that a key begins with: ``state={"level": rm.State(rm.float64, initial=20.0)}``."""

    type: DataType
    initial: Any = None
    """Of a Python or NumPy type that fits; None stands for zero, False or 1970."""

    def __post_init__(self) -> None:
        if not isinstance(self.type, DataType):
            raise TypeError(f"State() takes a ringmill type such as rm.float64, got {self.type!r}")


@dataclass(frozen=True, slots=True)
class StateField:
    """One checked state column."""

    name: str
    type: DataType
    initial: Any
    """A NumPy scalar."""

    @property
    def initial_bytes(self) -> bytes:
        """The initial value as it lies in memory, little-endian."""
        return bytes(self.initial.astype(self.initial.dtype.newbyteorder("<")).tobytes())


def state_field(name: str, state: State) -> StateField:
    """Checks a state column; TypeError or ValueError says what is wrong with it."""
    data_type = state.type
    if data_type.nullable:
        raise TypeError("state is never null; keep a bool_ column that says whether there is a value, or use NaN")
    if data_type.name in ("utf8", "binary") or data_type.name.startswith("list["):
        raise TypeError(f"state needs a type of fixed width, and {data_type} is not; keep a number instead of a text")
    dtype = _dtype(data_type)
    if state.initial is None:
        return StateField(name, data_type, np.zeros((), dtype)[()])
    given = np.asarray(state.initial)
    if given.ndim != 0:
        raise TypeError(f"initial= must be a single value, got {state.initial!r}")
    is_number = dtype.kind in "iuf" and given.dtype.kind in "iuf" and (dtype.kind == "f" or given.dtype.kind != "f")
    if not (is_number or given.dtype.kind == dtype.kind):
        raise TypeError(f"initial= must be a {data_type}, got {state.initial!r}")
    with np.errstate(over="ignore"):
        value = given.astype(dtype)[()]
    if dtype.kind in "iuM" and not bool(value == given[()]):
        # It does not fit; NaT is not even equal to itself.
        raise ValueError(f"initial= must be a {data_type}, got {state.initial!r}")
    return StateField(name, data_type, value)


def _dtype(data_type: DataType) -> np.dtype[Any]:
    if data_type.name.startswith("timestamp["):
        return np.dtype(f"datetime64[{data_type.name[len('timestamp[') : -1]}]")
    return np.dtype(data_type.name)
