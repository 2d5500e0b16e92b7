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

from . import _reader
from .errors import OutputError, Retry
from .failure import failure_payload, one_line
from .loading import load_sink
from .sink import Sink
from .worker_log import WorkerLog

__all__ = ["OPTIONS", "run", "taking"]

OPTIONS = "RINGMILL_OPTIONS"
"""Environment variable with the keyword arguments of the class, as JSON."""


def run(config: Mapping[str, Any], worker: _reader.Worker, log: WorkerLog) -> None:
    """Take batches until the core drains this process."""
    options = json.loads(os.environ.pop(OPTIONS, "{}"))
    sink = load_sink(config["function"], config["directory"], options)(**options)
    sink.setup()
    worker.bind(
        udf=taking(sink),
        name=type(sink).__name__,
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
    _close(sink, log)


def _close(sink: Sink, log: WorkerLog) -> None:
    """``close()``; its exception ends nothing, as all rows are written by then, and has to be heard of all the same."""
    try:
        sink.close()
    except BaseException as error:
        traceback.print_exception(error)
        log.write("error", f"sink {type(sink).__name__}: close(): {one_line(error)}; every write() had returned")


def taking(sink: Sink) -> Any:
    """``write()`` as a function without columns."""
    # The type says that it returns nothing; who awaits something of it is to hear of it.
    write: Any = sink.write

    def take(batch: _reader.Batch) -> dict[str, Any]:
        returned = write(batch)
        if returned is not None:
            name = type(sink).__name__
            raise OutputError(f"sink {name}: write(): expected None, got {type(returned).__name__} {returned!r:.80}")
        return {}

    return take


def _failure(error: BaseException, bytes_max: int) -> bytes:
    if isinstance(error, Retry):
        return failure_payload(error, bytes_max, message=str(error) or "rm.Retry", is_retry=True)
    return failure_payload(error, bytes_max)
