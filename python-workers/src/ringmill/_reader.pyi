"""What the Rust crate ``python-workers/reader`` offers. Checked against the built module by ``tests/test_stub.py``."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, TypeAlias, final, overload

import numpy as np
import numpy.typing as npt

from .types import DataType

__all__ = [
    "Batch",
    "ColumnIterator",
    "Feed",
    "Lease",
    "ListColumn",
    "LocalChannel",
    "OutputError",
    "Sender",
    "StringColumn",
    "Worker",
    "make_batch",
    "run_udf",
]

_Fields: TypeAlias = Sequence[tuple[str, str, bool]]
"""Columns: name, name of the type, whether nullable."""

_Capacity: TypeAlias = tuple[int, int]
"""Rows, and value bytes of each variable column, that a batch holds at most."""

class OutputError(ValueError):
    """What a UDF returned does not fit what it declared; the message names UDF, column, expected and got."""

@final
class Lease:
    """The base of every array over a slot; the slot is not written while it is referred to."""

@final
class Batch:
    """A micro-batch: read-only columns by name, and an Arrow table to whoever speaks the Arrow PyCapsule interface."""

    @property
    def schema(self) -> dict[str, DataType]: ...
    @property
    def columns(self) -> list[str]: ...
    @property
    def id(self) -> str: ...
    @property
    def row_numbers(self) -> npt.NDArray[np.uint64]: ...
    def to_arrow(self) -> Any: ...
    def __len__(self) -> int: ...
    def __contains__(self, name: object, /) -> bool: ...
    def __getitem__(self, name: str, /) -> Any: ...
    def __arrow_c_schema__(self) -> object: ...
    def __arrow_c_array__(self, requested_schema: object | None = None) -> tuple[object, object]: ...
    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...

@final
class StringColumn:
    """A column of text (items are ``str``) or bytes (items are ``bytes``); nulls are ``None``. Decoded when asked for."""

    @property
    def data_type(self) -> str: ...
    @property
    def offsets(self) -> npt.NDArray[np.int32]: ...
    @property
    def bytes(self) -> npt.NDArray[np.uint8]: ...
    @property
    def mask(self) -> npt.NDArray[np.bool_]: ...
    @property
    def null_count(self) -> int: ...
    def to_list(self) -> list[Any]: ...
    def to_numpy(self, dtype: npt.DTypeLike | None = None) -> npt.NDArray[Any]: ...
    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]: ...
    def __len__(self) -> int: ...
    @overload
    def __getitem__(self, index: int, /) -> Any: ...
    @overload
    def __getitem__(self, index: slice, /) -> list[Any]: ...
    def __iter__(self) -> ColumnIterator: ...
    def __arrow_c_schema__(self) -> object: ...
    def __arrow_c_array__(self, requested_schema: object | None = None) -> tuple[object, object]: ...

@final
class ListColumn:
    """A column of lists: each row is a view of the items of all rows; nulls are ``None``."""

    @property
    def data_type(self) -> str: ...
    @property
    def offsets(self) -> npt.NDArray[np.int32]: ...
    @property
    def values(self) -> npt.NDArray[Any]: ...
    @property
    def mask(self) -> npt.NDArray[np.bool_]: ...
    @property
    def null_count(self) -> int: ...
    def to_list(self) -> list[npt.NDArray[Any] | None]: ...
    def __len__(self) -> int: ...
    @overload
    def __getitem__(self, index: int, /) -> Any: ...
    @overload
    def __getitem__(self, index: slice, /) -> list[Any]: ...
    def __iter__(self) -> ColumnIterator: ...
    def __arrow_c_schema__(self) -> object: ...
    def __arrow_c_array__(self, requested_schema: object | None = None) -> tuple[object, object]: ...

@final
class ColumnIterator:
    """Reads a column row by row."""

    def __iter__(self) -> Iterator[Any]: ...
    def __next__(self) -> Any: ...

@final
class Worker:
    """A worker's end of a channel, and the UDF that answers what comes through it."""

    def __new__(
        cls,
        *,
        request_fd: int,
        response_fd: int,
        doorbell_fd: int,
        wait: str,
        inputs: _Fields,
        outputs: _Fields,
        capacity: _Capacity,
        output_capacity: _Capacity,
    ) -> Worker: ...
    def bind(
        self,
        *,
        udf: Callable[..., object],
        name: str,
        mode: str,
        arguments: Sequence[str],
        out: str,
        failure_payload: Callable[[BaseException, int], bytes],
        log: Callable[[str, str], object],
        snapshot: Callable[[], object] | None = None,
        restore: Callable[[bytes], object] | None = None,
    ) -> None: ...
    def ready(self) -> None: ...
    def run(self) -> None: ...
    def step(self, timeout: float = 0.0) -> Literal["batch", "drain"] | None: ...
    @property
    def current_batch(self) -> int | None: ...

@final
class Feed:
    """A source's end of a channel: requests for rows come in, batches go out."""

    def __new__(
        cls,
        *,
        request_fd: int,
        response_fd: int,
        doorbell_fd: int,
        wait: str,
        subject: str,
        outputs: _Fields,
        capacity: _Capacity,
    ) -> Feed: ...
    def ready(self) -> None: ...
    def next(self, timeout: float) -> tuple[Literal["fill", "seek", "drain"], int, Any] | None: ...
    def answer(self, columns: object, rows: int, trailer: bytes) -> None: ...
    def sought(self) -> None: ...
    def fail(self, payload: bytes) -> None: ...
    @property
    def failure_bytes_max(self) -> int: ...
    @property
    def current_batch(self) -> int | None: ...

@final
class Sender:
    """A producer's end of a channel: it has rows, and sends them as far as the core has asked for any."""

    def __new__(
        cls,
        *,
        request_fd: int,
        response_fd: int,
        doorbell_fd: int,
        wait: str,
        subject: str,
        outputs: _Fields,
        capacity: _Capacity,
    ) -> Sender: ...
    def wait_free(self, slots: int, timeout: float) -> bool: ...
    def send(self, columns: object, rows: int, trailer: bytes) -> None: ...
    @property
    def slots(self) -> int: ...
    @property
    def is_drained(self) -> bool: ...

@final
class LocalChannel:
    """The core's end of a channel, for tests."""

    def __new__(
        cls,
        *,
        inputs: _Fields,
        outputs: _Fields,
        capacity: _Capacity,
        output_capacity: _Capacity | None = None,
        slots: int = 4,
    ) -> LocalChannel: ...
    def worker_fds(self) -> tuple[int, int, int]: ...
    def publish(self, columns: object, rows: int) -> int | None: ...
    def snapshot(self, piece: int) -> int | None: ...
    def restore(self, piece: int, payload: bytes) -> int | None: ...
    def poll(self, timeout: float = 0.0) -> dict[str, Any] | None: ...
    def pump(self, batches: int, rows: int, depth: int) -> tuple[int, int, int, int]: ...
    def release(self, slot: int) -> None: ...
    def drain(self) -> None: ...
    @property
    def slot_bytes(self) -> tuple[int, int]: ...
    @property
    def free_slots(self) -> int: ...

def make_batch(
    fields: _Fields,
    columns: object,
    rows: int,
    capacity: _Capacity,
    subject: str = "batch",
    identity: tuple[str, int] | None = None,
) -> Batch: ...
def run_udf(
    batch: Batch,
    *,
    outputs: _Fields,
    capacity: _Capacity,
    udf: Callable[..., object],
    name: str,
    mode: str,
    arguments: Sequence[str],
    out: str,
) -> Batch: ...
