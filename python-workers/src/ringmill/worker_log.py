"""Carries what a worker's Python code says (``print``, ``logging``, warnings) to the core's log.

Each record is one JSON object on a line of the log pipe, naming the batch that was being worked on. Writing by C
code to file descriptors 1 and 2 does not pass here: the core reads those pipes itself.
"""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["WorkerLog"]

_TEXT_MAX = 4 * 1024
"""Longer texts are cut: one runaway print must not fill the core's memory. JSON may make a character six bytes, and the
core takes a record of 64 KiB at most, with two such texts (message and traceback)."""


class WorkerLog:
    """Writes log lines to ``log_fd``. Safe to use from any thread of this process."""

    def __init__(self, log_fd: int) -> None:
        self._fd = log_fd
        # Re-entrant, since a signal handler or a destructor may log while a line is being written.
        self._lock = threading.RLock()
        self.current_batch: Callable[[], int | None] = lambda: None
        """Says which batch the worker is in; the worker sets it once it is attached."""

    def write(self, level: str, message: str, **fields: Any) -> None:
        """Send one record; drops it if the core is gone."""
        if len(message) > _TEXT_MAX:
            message = f"{message[:_TEXT_MAX]}... ({len(message)} characters)"
        record: dict[str, Any] = {"level": level, "message": message, "batch": self.current_batch(), **fields}
        if "traceback" in record:
            record["traceback"] = record["traceback"][-_TEXT_MAX:]  # its end matters most
        line = memoryview(json.dumps(record, default=str).encode() + b"\n")
        with self._lock:
            try:
                while line:
                    line = line[os.write(self._fd, line) :]
            except OSError:
                pass  # the core is gone, and this process is about to follow it

    def capture(self) -> None:
        """Send ``print``, ``logging`` and warnings here from now on."""
        sys.stdout = _line_stream(self, "stdout", "info")
        sys.stderr = _line_stream(self, "stderr", "warning")
        root = logging.getLogger()
        root.addHandler(_Handler(self))
        root.setLevel(logging.INFO)
        logging.captureWarnings(True)


def _line_stream(log: WorkerLog, stream: str, level: str) -> io.TextIOWrapper:
    """Something to print to. Not buffered, so that a line is logged under the batch that ended it."""
    lines = _Lines(log, stream, level)
    return io.TextIOWrapper(lines, encoding="utf-8", errors="backslashreplace", write_through=True)  # type: ignore[arg-type]


class _Lines(io.RawIOBase):
    """Standard output or error, cut into log records at line ends."""

    def __init__(self, log: WorkerLog, stream: str, level: str) -> None:
        self._log = log
        self._stream = stream
        self._level = level
        self._lock = threading.RLock()
        self._partial = b""

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return 1 if self._stream == "stdout" else 2

    def write(self, data: Any, /) -> int:
        with self._lock:
            *lines, self._partial = (self._partial + bytes(data)).split(b"\n")
            if len(self._partial) > _TEXT_MAX:
                lines.append(self._partial)
                self._partial = b""
        for line in lines:
            if line:
                self._log.write(self._level, line.decode("utf-8", "backslashreplace"), stream=self._stream, logger=None)
        return len(data)

    def close(self) -> None:
        """Send an unfinished line."""
        if not self.closed and self._partial:
            self.write(b"\n")
        super().close()


class _Handler(logging.Handler):
    def __init__(self, log: WorkerLog) -> None:
        super().__init__()
        self._log = log
        self.setFormatter(logging.Formatter("%(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = self.format(record)
        except Exception:
            self.handleError(record)
            return
        self._log.write(record.levelname.lower(), message, stream="logging", logger=record.name)
