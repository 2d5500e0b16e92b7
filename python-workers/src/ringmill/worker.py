"""``python -m ringmill.worker --config JSON``: one worker process, started by the core and by nothing else.

A source's process is :mod:`ringmill.source_worker`'s business, and a sink's :mod:`ringmill.sink_worker`'s. A UDF's attaches
to its channel, imports the UDF, checks it against the columns it will be given, runs ``setup()``, reports ready, and then hands
itself to the reader, which answers batches until the core drains it (exit status 0). What prevents that is written to the log
pipe as one ``fatal`` record (exit status 3).
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import json
import os
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from . import _reader, sink_worker, source_worker, types
from .failure import failure_payload, one_line
from .loading import load
from .udf import Declaration
from .worker_log import WorkerLog

__all__ = ["main", "run"]

EXIT_CANNOT_WORK = 3

_Columns = list[tuple[str, str, bool]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the worker that ``arguments`` describe; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m ringmill.worker", description=__doc__)
    parser.add_argument("--config", required=True, help="JSON, made by the core")
    config: dict[str, Any] = json.loads(parser.parse_args(arguments).config)
    # Ctrl-C goes to every process of the terminal; the core answers it by draining its workers in good order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable(file=2)
    log = WorkerLog(config["log_fd"])
    log.capture()
    try:
        run(config, log)
    except BaseException as error:
        log.write("fatal", one_line(error), traceback="".join(traceback.format_exception(error)))
        return EXIT_CANNOT_WORK
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.close()
    return 0


def run(config: Mapping[str, Any], log: WorkerLog) -> None:
    """Answer batches until the core drains this worker."""
    for fd in ("request_fd", "response_fd", "doorbell_fd", "log_fd"):
        # They were inherited from the core; what a UDF starts shall not inherit them from here.
        os.set_inheritable(config[fd], False)
    if config.get("role") == "source":
        source_worker.run(config, log)
        return
    worker = _reader.Worker(
        request_fd=config["request_fd"],
        response_fd=config["response_fd"],
        doorbell_fd=config["doorbell_fd"],
        wait=config["wait"],
        inputs=_columns(config["input"]),
        outputs=_columns(config["output"]),
        capacity=_capacity(config["capacity"]),
        output_capacity=_capacity(config["output_capacity"]),
    )
    log.current_batch = lambda: worker.current_batch
    if config.get("role") == "sink":
        sink_worker.run(config, worker, log)
        return
    declaration = load(config["function"], config["directory"])
    _check(declaration, config)
    udf: Any = declaration.instantiate()
    worker.bind(
        udf=udf,
        name=declaration.name,
        mode=declaration.mode,
        arguments=declaration.arguments,
        out=declaration.out,
        failure_payload=failure_payload,
        log=log.write,
        snapshot=udf.snapshot if declaration.has_snapshot else None,
        restore=udf.restore if declaration.has_snapshot else None,
    )
    # Everything that was imported and set up lives as long as the process: collections need not look at it again.
    gc.collect()
    gc.freeze()
    worker.ready()
    worker.run()


def _check(declaration: Declaration, config: Mapping[str, Any]) -> None:
    declaration.check_input(
        {name: types.from_name(data_type, is_nullable=nullable) for name, data_type, nullable in _columns(config["input"])}
    )
    declared = _listed([(field.name, field.type.name, field.type.nullable) for field in declaration.returned])
    expected = _listed(_columns(config["output"]))
    if declared != expected:
        # The module has changed since the core asked for its description.
        raise RuntimeError(f"UDF {declaration.name} now declares outputs {declared}, but the pipeline was built for {expected}")


def _listed(columns: _Columns) -> str:
    return ", ".join(f"{name}: {types.from_name(data_type, is_nullable=nullable)}" for name, data_type, nullable in columns)


def _columns(schema: Mapping[str, Any]) -> _Columns:
    return [(field["name"], field["data_type"], bool(field.get("nullable", False))) for field in schema["fields"]]


def _capacity(capacity: Mapping[str, int]) -> tuple[int, int]:
    return capacity["rows_max"], capacity["variable_bytes_max"]


if __name__ == "__main__":
    sys.exit(main())
