"""The process of a source's partition: answers requests for rows until the core drains it.

Started by :mod:`ringmill.worker`. An exception of the class is an answer (``failed``), never the end of the process;
what was asked before the core has heard of it is then void, for the core may want the class to seek first.
"""

from __future__ import annotations

import gc
import json
import os
import traceback
from collections.abc import Mapping
from typing import Any

from . import _reader
from .errors import OutputError
from .loading import load_source
from .source import End, Source, has_seek, position_text, row_count
from .worker_log import WorkerLog

__all__ = ["OPTIONS", "run"]

OPTIONS = "RINGMILL_OPTIONS"
"""Environment variable with the keyword arguments of the class, as JSON."""

_ATTENTION = 0.05
"""How long a process without requests sleeps before it looks for signals, in seconds."""

_MESSAGE_MAX = 8 * 1024


def run(config: Mapping[str, Any], log: WorkerLog) -> None:
    """Answer until the core drains this process."""
    options = json.loads(os.environ.pop(OPTIONS, "{}"))
    feed = _reader.Feed(
        request_fd=config["request_fd"],
        response_fd=config["response_fd"],
        doorbell_fd=config["doorbell_fd"],
        wait=config["wait"],
        subject=f"source {config['function'].rpartition(':')[2]}",
        outputs=[(field["name"], field["data_type"], bool(field.get("nullable", False))) for field in config["output"]["fields"]],
        capacity=(config["output_capacity"]["rows_max"], config["output_capacity"]["variable_bytes_max"]),
    )
    log.current_batch = lambda: feed.current_batch
    source = load_source(config["function"], config["directory"], options)(**options)
    partition = _Partition(source, config["partition"], feed)
    gc.collect()
    gc.freeze()
    feed.ready()
    partition.answer_all()
    source.close()


class _Partition:
    """One partition of a source, and whoever asks it."""

    def __init__(self, source: Source, name: str, feed: _reader.Feed) -> None:
        self._source = source
        self._class = type(source).__name__
        self._name = name
        self._feed = feed
        self._has_seek = has_seek(type(source))
        self._failed: int | None = None
        """The attempt that failed: what else was asked in it is void."""
        self._before: str | None = None
        """Where it stood before the first poll, until the core was told: whoever follows goes on from there."""
        self._at: str | None = None

    def answer_all(self) -> None:
        is_first = True
        while True:
            request = self._feed.next(_ATTENTION)
            if request is None:
                continue
            kind, attempt, value = request
            if kind == "drain":
                return
            if attempt == self._failed:
                self._feed.answer(None, 0, b'{"kind":"void"}')
                continue
            try:
                if is_first and kind == "fill":
                    self._before = self._at = self._stand()
                is_first = False
                if kind == "seek":
                    self._source.seek(self._name, json.loads(value))
                    self._at = value.decode()
                    self._feed.sought()
                else:
                    self._fill(value)
            except BaseException as error:  # SystemExit too: the core decides what follows
                self._failed = attempt
                self._feed.fail(self._failure(error))
                self._before = None

    def _fill(self, rows_max: int) -> None:
        rows = self._source.poll(self._name, rows_max)
        count = 0 if rows is None or rows is End else row_count(self._class, rows, rows_max)
        after = self._stand()
        if count == 0 and rows is not End and after == self._at:
            rows, trailer = None, {"kind": "idle", "before": self._before}
        else:
            trailer = {"kind": "end" if rows is End else "rows", "before": self._before, "after": after}
        self._feed.answer(rows, count, json.dumps(trailer).encode())
        self._before, self._at = None, after

    def _stand(self) -> str | None:
        """The position as JSON."""
        if not self._has_seek:
            return None
        return position_text(self._class, self._source.position(self._name))

    def _failure(self, error: BaseException) -> bytes:
        """``is_final``: the same would happen again, or rows that were polled would be left out."""
        message = "".join(traceback.format_exception_only(error)).strip()
        trace = "".join(traceback.format_exception(error))
        failure = {
            "error": message.removeprefix("ringmill._reader.")[:_MESSAGE_MAX],
            "traceback": trace[-_MESSAGE_MAX:],
            "is_final": isinstance(error, OutputError),
            "before": self._before,
        }
        payload = json.dumps(failure, ensure_ascii=False).encode("utf-8", "replace")
        if len(payload) <= self._feed.failure_bytes_max:
            return payload
        return json.dumps({**failure, "error": message[:1000], "traceback": None}).encode()
