"""Rows from any process of this machine, written straight into the shared memory of a running pipeline.

::

    with rm.connect("telemetry") as producer:
        producer.send({"device_id": ids, "temperature": temperatures})

The pipeline has a source of ``kind = "producer"``, which declares the columns. How a producer goes on exactly after it, or
the pipeline, has died is told at :class:`Producer`.
"""

from __future__ import annotations

import json
import os
import select
import socket
import stat
import struct
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from . import _reader
from .errors import Disconnected, Full, OutputError, Refused
from .source import Rows

__all__ = ["Producer", "connect"]

_VERSION = 1
"""Of the messages that go over the socket."""
_MESSAGE_MAX = 256 * 1024
_POSITION_MAX = 16 * 1024 - 64
"""Bytes of a position as JSON; what is put around it takes the rest of what the core keeps."""
_NAME_MAX = 40
"""Characters of a pipeline's name that are in the name of its run's folder."""
_PAUSE = 0.05
"""How long a run that is not there, or does not answer, is left alone, in seconds."""


def connect(pipeline: str, *, producer: str = "default", source: str | None = None, connect_timeout: float = 10.0) -> Producer:
    """Connect to a running pipeline of this user, as one of the producers that its source names.

    ``pipeline`` is its ``name``: what its file says, else the file's name without ``.toml``, or, for ``pipeline.toml``, its
    folder's. ``source`` is the one that is meant where several are for producers. A run that is not there yet, or ends just
    now, is waited for up to ``connect_timeout`` seconds, and so is room for what an earlier producer of this name has sent.

    Raises :class:`Refused` with the reason if the run does not let this producer in (it is connected already, there is no
    producer or source of that name, another user's run) and :class:`TimeoutError` if there was no run.
    """
    hello = json.dumps({"version": _VERSION, "pipeline": pipeline, "source": source, "producer": producer}).encode()
    deadline = time.monotonic() + connect_timeout
    reason = f"there is no run of pipeline {pipeline!r} with a source for producers"
    while True:
        connection = _find(pipeline)
        if connection is not None:
            try:
                return Producer(connection, producer, *_be_welcomed(connection, hello, deadline))
            except _Passing as error:
                connection.close()
                reason = str(error)
            except BaseException:
                connection.close()
                raise
        if time.monotonic() >= deadline:
            raise TimeoutError(f"failed to connect within {connect_timeout:g} s: {reason}")
        time.sleep(_PAUSE)


class Producer:
    """What :func:`connect` gives: sends rows into a pipeline, from one thread at a time (others wait).

    **Going on exactly.** Where the source says ``replayable = true``, :attr:`position` tells behind which row the pipeline
    goes on: read your own log from there, and each row counts once, whichever process was killed. A position is what was
    given with ``send(…, position=…)`` (any JSON value of at most 16 KiB), or else the number of rows sent so far, over all
    connections. What is before :attr:`acknowledged` is in a checkpoint; it is asked for again only if that checkpoint's files
    are damaged later, and an older one is gone on from.

    ::

        while True:
            try:
                with rm.connect("telemetry") as producer:
                    for position, rows in read_log(behind=producer.position):
                        producer.send(rows, position=position)
                break
            except rm.Disconnected:
                pass  # the pipeline ended or died: connect() waits for its next run

    Without ``replayable``, rows count at most once. After a fork the child's copy is closed; the parent's goes on.
    """

    def __init__(self, connection: socket.socket, name: str, welcome: dict[str, Any], descriptors: list[int]) -> None:
        self._socket = connection
        self._lock = threading.Lock()
        self._name = name
        self._source: str = welcome["source"]
        self._is_replayable: bool = welcome["replayable"]
        self._is_durable: bool = welcome["replayable"] and welcome["checkpoints"]
        self._rows_max: int = welcome["capacity"]["rows_max"]
        self._number, self._position, self._behind = _parse(welcome["position"])
        self._skip = self._behind
        """Rows that the pipeline has beyond the position: they are left out when they come again."""
        self._acknowledged_number, self._acknowledged, _ = _parse(welcome["acknowledged"])
        self._over: ConnectionError | None = None
        """Why nothing can be sent any more."""
        self._is_torn = False
        """An exception (Ctrl-C) came between writing rows and noting it."""
        fields = welcome["schema"]["fields"]
        request_fd, response_fd, doorbell_fd = descriptors
        self._sender = _reader.Sender(
            request_fd=request_fd,
            response_fd=response_fd,
            doorbell_fd=doorbell_fd,
            wait=welcome["wait"],
            subject=f"source {self._source}",
            outputs=[(field["name"], field["data_type"], bool(field.get("nullable", False))) for field in fields],
            capacity=(self._rows_max, welcome["capacity"]["variable_bytes_max"]),
        )
        connection.setblocking(False)
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        _OPEN.add(self)

    @property
    def name(self) -> str:
        """As which producer it is connected."""
        return self._name

    @property
    def source(self) -> str:
        """The source's name."""
        return self._source

    @property
    def position(self) -> Any:
        """Behind which rows stand that are sent next: after :func:`connect`, behind the last that the pipeline has.

        None if it has none yet, and where the source keeps no positions.
        """
        return self._position

    @property
    def acknowledged(self) -> Any:
        """The newest position that is known to be in a checkpoint, which it is one interval later; None if there is none."""
        with self._lock:
            self._listen()
            return self._acknowledged

    def send(self, rows: Rows, *, position: Any = None, block: bool = True, timeout: float | None = None) -> None:
        """Send rows: a mapping of columns by name, each of shape (rows,), an Arrow table or record batch, a data frame.

        Columns and types are those of the source (or such as convert without loss), with nulls where it says ``nullable``;
        what does not fit raises :class:`OutputError` that names the column. Any number of rows may be sent at once. They go
        into the pipeline in pieces of ``batch_rows``, and what is raised in a later piece, be it ``KeyboardInterrupt``, has
        the attribute ``sent``: how many rows went before it.

        ``position`` is where the producer stands behind these rows; counted in rows if it is not given. Waits while the
        pipeline is behind, up to ``timeout`` seconds; then, or at once if ``block`` is false, raises :class:`Full`, whose
        ``sent`` is the number of rows that were sent before. Raises :class:`Disconnected` if the pipeline is gone, and
        :class:`Refused` if it has sent this producer away.
        """
        deadline = time.monotonic() + (timeout or 0.0) if timeout is not None or not block else None
        with self._lock:
            self._check()
            rows = _without_pandas(rows)
            count = _count(self._source, rows)
            behind = self._position_behind(count, position)
            if count == 0 and position is None:
                return
            skipped = min(self._skip, count)
            self._skip -= skipped
            if skipped == count and (count > 0 or self._skip > 0):
                self._position, self._behind = behind, self._skip
                return
            self._send_pieces(rows, count, skipped, behind, deadline, is_counted=position is None)

    def flush(self, *, durable: bool = False, timeout: float | None = None) -> None:
        """Wait until the pipeline has taken all that was sent; with ``durable``, until a checkpoint has it.

        Raises :class:`TimeoutError` after ``timeout`` seconds, and what :meth:`send` raises. A checkpoint is known to be
        complete when the next one begins, so ``durable`` takes up to two of their intervals.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            self._check()
            self._flush(deadline, timeout)
            if durable:
                self._await_checkpoint(deadline, timeout)

    def close(self) -> None:
        """Wait until everything is taken, say that no more comes, and disconnect. Nothing happens the second time.

        Raises what :meth:`flush` raises; it is disconnected then too.
        """
        with self._lock:
            if self._socket.fileno() < 0:
                return
            try:
                self._check()
                self._flush(None, None)
                self._sender.send(None, 0, _trailer(self._mark(self._position, self._behind), is_last=True))
            finally:
                self._disconnect()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close; after an exception only disconnect: rows that were sent are taken, and the pipeline does not end by it."""
        if kind is None:
            self.close()
        else:
            with self._lock:
                self._disconnect()

    def __repr__(self) -> str:
        state = "closed" if self._socket.fileno() < 0 else "connected"
        return f"<ringmill.Producer {self._name!r} of source {self._source!r}, {state}>"

    def _position_behind(self, count: int, position: Any) -> Any:
        """Where the producer stands behind so many rows."""
        if position is not None:
            if not self._is_replayable:
                raise ValueError(f"source {self._source} keeps no positions: set replayable = true there")
            _position_text(position)
            return position
        if not self._is_replayable:
            return None
        last = 0 if self._position is None else self._position
        if not isinstance(last, int):
            raise ValueError(f"position: expected one, since the last was {last!r:.80}, from which rows cannot be counted on")
        return last + self._behind - self._skip + count

    def _send_pieces(self, rows: Rows, count: int, start: int, behind: Any, deadline: float | None, *, is_counted: bool) -> None:
        size = self._rows_max
        try:
            if count > size or start > 0:
                _check_lengths(self._source, rows, count)
            while start < count or count == 0:
                if not self._wait(1, deadline):
                    raise Full(f"the pipeline is behind: {start} of {count} rows are sent")
                stop = min(start + size, count)
                if stop == count:
                    position, further = behind, 0
                elif is_counted and self._is_replayable:
                    position, further = behind - (count - stop), 0
                else:
                    position, further = self._position, self._behind + stop - start
                try:
                    self._send_piece(_piece(rows, start, stop, count), stop - start, position, further)
                except OutputError as error:
                    # A batch's room for texts is full: fewer rows may fit.
                    if stop - start == 1 or not getattr(error, "fewer_may_fit", False):
                        raise
                    size = (stop - start) // 2
                    continue
                start = stop
                if count == 0:
                    return
        except ConnectionError:
            raise
        except BaseException as error:
            error.sent = start  # type: ignore[attr-defined]
            raise

    def _send_piece(self, rows: Rows, count: int, position: Any, behind: int) -> None:
        self._is_torn = True
        self._number += 1
        try:
            self._sender.send(rows, count, _trailer(self._mark(position, behind)))
        except OutputError:
            self._number -= 1
            self._is_torn = False
            raise
        self._position, self._behind, self._skip = position, behind, 0
        self._is_torn = False

    def _mark(self, position: Any, behind: int) -> str | None:
        """What the core keeps of where this producer stands: how many batches there were, the position, rows behind it."""
        if not self._is_replayable:
            return None
        return f"[{self._number},{_position_text(position)},{behind}]"

    def _wait(self, slots: int, deadline: float | None) -> bool:
        """Wait until so many slots are free; False if they are not at the deadline."""
        while True:
            left = _PAUSE if deadline is None else min(_PAUSE, deadline - time.monotonic())
            if self._sender.wait_free(slots, max(left, 0.0)):
                return True
            if self._sender.is_drained:
                raise Disconnected(f"the run of source {self._source} is ending and takes no more rows")
            self._check()
            if left <= 0.0:
                return False

    def _flush(self, deadline: float | None, timeout: float | None) -> None:
        if not self._wait(self._sender.slots, deadline):
            raise TimeoutError(f"the pipeline has not taken everything within {timeout:g} s")

    def _await_checkpoint(self, deadline: float | None, timeout: float | None) -> None:
        if not self._is_durable:
            needed = "[checkpoint]" if self._is_replayable else "replayable = true"
            raise ValueError(
                f"durable: the pipeline of source {self._source} says of no checkpoint what it has: it lacks {needed}"
            )
        while self._acknowledged_number < self._number:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0.0:
                raise TimeoutError(f"no checkpoint has everything within {timeout:g} s")
            self._poll.poll(None if left is None else 1000.0 * left)
            self._check()

    def _check(self) -> None:
        """Raise if nothing can be sent any more."""
        if self._socket.fileno() < 0:
            raise ValueError("this producer is closed")
        if self._is_torn:
            raise Disconnected("an exception came while rows were being sent: connect again, and go on from `position`")
        self._listen()
        if self._over is not None:
            # A new one each time, lest tracebacks grow.
            raise type(self._over)(*self._over.args)

    def _listen(self) -> None:
        """Hear what the pipeline says beside the rings."""
        while self._over is None and self._socket.fileno() >= 0 and self._poll.poll(0):
            try:
                data = self._socket.recv(_MESSAGE_MAX)
            except BlockingIOError:
                return
            except ConnectionError:
                data = b""
            if not data:
                self._over = Disconnected(
                    f"the run of source {self._source} has ended or died: connect again, and go on from `position`"
                )
                return
            message = json.loads(data)
            if message["kind"] == "acknowledged":
                self._acknowledged_number, self._acknowledged, _ = _parse(message["position"])
            elif message["kind"] == "refused":
                self._over = Refused(message["reason"])

    def _disconnect(self) -> None:
        self._socket.close()
        _OPEN.discard(self)

    def _forget(self) -> None:
        """In the child of a fork: the memory is the parent's, and is not even mapped."""
        self._lock = threading.Lock()
        self._socket.close()


_OPEN: weakref.WeakSet[Producer] = weakref.WeakSet()


def _forget_all() -> None:
    for producer in list(_OPEN):
        producer._forget()


os.register_at_fork(after_in_child=_forget_all)


class _Passing(Exception):
    """Why a run does not let a producer in now, and perhaps later does."""


def _find(pipeline: str) -> socket.socket | None:
    """A connection to the run of that name, if there is one."""
    found: list[tuple[Path, socket.socket]] = []
    try:
        for path in _sockets(pipeline):
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            connection.setblocking(False)
            try:
                connection.connect(str(path))
            except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):
                connection.close()  # a run that died, has no source for producers, or more at its door than it can let in
                continue
            except BaseException:
                connection.close()
                raise
            found.append((path, connection))
        if len(found) > 1:
            runs = ", ".join(path.parent.name.rpartition("-")[2] for path, _ in found)
            raise Refused(f"there are {len(found)} runs of pipeline {pipeline!r}, processes {runs}: give them different names")
        connections = [connection for _, connection in found]
        found.clear()
    finally:
        for _, connection in found:
            connection.close()
    return connections[0] if connections else None


def _sockets(pipeline: str) -> Iterator[Path]:
    """Where runs of a pipeline of that name would listen."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    base = Path(runtime) if runtime and Path(runtime).is_dir() else Path("/tmp")
    folder = base / f"ringmill-{os.geteuid()}"
    try:
        status = folder.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise Refused(f"{folder} is not a folder that only this user can enter")
    plain = (letter if (letter.isascii() and letter.isalnum()) or letter in "_-" else "_" for letter in pipeline)
    name = "".join(plain)[:_NAME_MAX]
    for run in sorted(folder.iterdir()):
        start, _, process = run.name.rpartition("-")
        if start == name and process.isdigit():
            yield run / "producers.sock"


def _be_welcomed(connection: socket.socket, hello: bytes, deadline: float) -> tuple[dict[str, Any], list[int]]:
    """What the run says of the source, and three descriptors; raises :class:`Refused`."""
    _, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    if user != os.geteuid():
        raise Refused(f"the run belongs to user {user}")
    connection.settimeout(max(deadline - time.monotonic(), _PAUSE))
    descriptors: list[int] = []
    try:
        connection.send(hello)
        data, descriptors, _, _ = socket.recv_fds(connection, _MESSAGE_MAX, 3, socket.MSG_CMSG_CLOEXEC)
    except TimeoutError:
        raise _Passing("the run has not answered: it is starting, or has yet to take what an earlier producer has sent") from None
    except ConnectionError:
        data = b""
    if not data:
        raise _Passing("the run has ended")
    message = json.loads(data)
    if message["kind"] == "welcome" and len(descriptors) == 3:
        return message, descriptors
    for descriptor in descriptors:
        os.close(descriptor)
    if message.get("is_passing"):
        raise _Passing(message["reason"])
    raise Refused(message.get("reason", "the run gave no memory"))


def _parse(mark: str | None) -> tuple[int, Any, int]:
    """Number of the last batch, position, and how many rows were behind it."""
    if mark is None:
        return 0, None, 0
    number, position, behind = json.loads(mark)
    return number, position, behind


def _position_text(position: Any) -> str:
    try:
        text = json.dumps(position, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"position: expected a JSON value, got {position!r:.200}: {error}") from None
    # In the trailer it is text within JSON once more, where quotes and backslashes count twice.
    if len(text) > _POSITION_MAX:
        raise ValueError(f"position: expected at most {_POSITION_MAX} bytes as JSON, got {len(text)}")
    return text


def _trailer(mark: str | None, *, is_last: bool = False) -> bytes:
    return json.dumps({"after": mark, "is_last": is_last}).encode()


def _count(source: str, rows: Rows) -> int:
    column, value = "", rows
    if isinstance(rows, Mapping):
        column, value = next(iter(rows.items()), ("", None))
    elif isinstance(rows, tuple):
        value = rows[0] if rows else None
    try:
        return len(value)
    except TypeError:
        expected = "values, one for each row" if column else "columns by name, a table or a data frame"
        at = f" column {column!r}:" if column else ""
        raise OutputError(f"source {source}: send():{at} expected {expected}, got {value!r:.80}") from None


def _check_lengths(source: str, rows: Rows, count: int) -> None:
    """A slice of columns of different lengths would hide that they are."""
    columns: Iterable[tuple[Any, Any]] = ()
    if isinstance(rows, Mapping):
        columns = rows.items()
    elif isinstance(rows, tuple):
        columns = enumerate(rows)
    for name, values in columns:
        try:
            length = len(values)
            values[:0]
        except TypeError:
            message = f"source {source}: column {name!r}: expected values, one for each row, got {values!r:.80}"
            raise OutputError(message) from None
        if length != count:
            raise OutputError(f"source {source}: column {name!r}: expected {count} rows, got {length}")


def _piece(rows: Rows, start: int, stop: int, count: int) -> Rows:
    if isinstance(rows, Mapping):
        if stop - start == count:
            return rows if isinstance(rows, dict) else dict(rows)
        return {name: _cut(values, start, stop) for name, values in rows.items()}
    if stop - start == count:
        return rows
    if isinstance(rows, tuple):
        return tuple(_cut(values, start, stop) for values in rows)
    if hasattr(rows, "slice"):
        return rows.slice(start, stop - start)
    return rows[start:stop]


def _cut(values: Any, start: int, stop: int) -> Any:
    # A pandas column by its rows, whatever it has for an index.
    return getattr(values, "iloc", values)[start:stop]


def _without_pandas(rows: Rows) -> Rows:
    """A pandas data frame as columns: its index is left out, and NaN of a float column stays the value that it is."""
    if type(rows).__module__.partition(".")[0] != "pandas":
        return rows
    columns = {}
    for name, column in rows.items():
        if getattr(column.dtype, "kind", "O") in "biufM" and type(column.dtype).__module__.startswith("numpy"):
            columns[str(name)] = column.to_numpy()
        else:
            columns[str(name)] = column.astype(object).where(column.notna(), None).tolist()
    return columns
