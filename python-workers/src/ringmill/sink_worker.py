"""The process of a sink: gives its class batch after batch until the core drains it.

Started by :mod:`ringmill.worker`. To the reader it is a function of whole batches that returns no columns. An exception of
``write()`` is an answer (``failed``), never the end of the process.
"""

from __future__ import annotations

import gc
import json
import os
import traceback
from collections.abc import Mapping
from typing import Any

import numpy as np

from . import _reader
from .errors import OutputError, Reject, Retry
from .failure import failure_payload, one_line
from .loading import load_sink
from .sink import Sink
from .worker_log import WorkerLog

__all__ = ["OPTIONS", "Taker", "run"]

OPTIONS = "RINGMILL_OPTIONS"
"""Environment variable with the keyword arguments of the class, as JSON."""


def run(config: Mapping[str, Any], worker: _reader.Worker, log: WorkerLog) -> None:
    """Take batches until the core drains this process."""
    options = json.loads(os.environ.pop(OPTIONS, "{}"))
    taker = Taker(load_sink(config["function"], config["directory"], options)(**options))
    try:
        taker.set_up()
    except Retry as error:
        log.write("warning", f"sink {taker.name}: setup(): {one_line(error)}; it is called again when there are rows")
    worker.bind(
        udf=taker,
        name=taker.name,
        mode="batch",
        arguments=(),
        out="none",
        failure_payload=_failure,
        log=log.write,
    )
    gc.collect()
    gc.freeze()
    worker.ready()
    worker.run()
    if taker.is_set_up:
        _close(taker, log)


def _close(taker: Taker, log: WorkerLog) -> None:
    """``close()``; its exception ends nothing, as all rows are written by then, and has to be heard of all the same."""
    try:
        taker.sink.close()
    except BaseException as error:
        traceback.print_exception(error)
        log.write("error", f"sink {taker.name}: close(): {one_line(error)}; every write() had returned")


class Rejected(Exception):
    """What :class:`Reject` says of a batch: the places of the rejected rows, ascending, each once."""

    def __init__(self, rows: list[int], reason: str) -> None:
        super().__init__(reason)
        self.rows, self.reason = rows, reason


class Taker:
    """A sink as a function without columns: ``write()``, after ``setup()``."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.name = type(sink).__name__
        self.is_set_up = False

    def set_up(self) -> None:
        """Connect. If the target is away (:class:`Retry`), the next batch tries again."""
        self.sink.setup()
        self.is_set_up = True

    def __call__(self, batch: _reader.Batch) -> dict[str, Any]:
        if not self.is_set_up:
            self.set_up()
        # The type says that it returns nothing; who awaits something of it is to hear of it.
        write: Any = self.sink.write
        try:
            returned = write(batch)
        except Reject as error:
            rows = self._places(error, len(batch))
            if not rows:
                return {}
            raise Rejected(rows, str(error.reason or "rm.Reject")) from error
        if returned is not None:
            raise OutputError(f"sink {self.name}: write(): expected None, got {type(returned).__name__} {returned!r:.80}")
        return {}

    def _places(self, error: Reject, count: int) -> list[int]:
        try:
            rows = np.atleast_1d(np.asarray(error.rows))
        except ValueError as ragged:
            raise OutputError(f"sink {self.name}: rm.Reject: expected places of rows, or a mask: {ragged}") from error
        if rows.dtype == np.bool_ and rows.shape == (count,):
            rows = np.flatnonzero(rows)
        if rows.size == 0:
            return []
        if rows.ndim != 1 or rows.dtype.kind not in "iu":
            raise OutputError(
                f"sink {self.name}: rm.Reject: expected places of rows, or a mask of shape ({count},), "
                f"got {rows.dtype} of shape {rows.shape}"
            )
        places: list[int] = np.unique(rows).tolist()
        wrong = next((place for place in places if not 0 <= place < count), None)
        if wrong is not None:
            raise OutputError(f"sink {self.name}: rm.Reject: there is no row {wrong} in a batch of {count} rows")
        return places


def _failure(error: BaseException, bytes_max: int) -> bytes:
    if isinstance(error, Retry):
        return failure_payload(error, bytes_max, message=str(error) or "rm.Retry", is_retry=True)
    if isinstance(error, Rejected):
        return failure_payload(error, bytes_max, message=error.reason, rejected=error.rows)
    return failure_payload(error, bytes_max)
