"""``python -m ringmill.describe``: tells the core what the UDFs, sources and sinks of a pipeline take and return.

Reads ``{"functions": [{"step", "role", "function", "directory", "options"}, ...]}`` from standard input and writes
``{"functions": [...]}`` with one answer for each to standard output, in order. What the users' modules print while
they are imported goes to standard error. No UDF runs, no ``setup()``, and no class is
instantiated.

With ``{"partitions": {"class", "directory", "options", "seconds_max"}}`` it makes an instance of that source and answers
with the names of its partitions.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from typing import Any

from .loading import load, load_sink, load_source
from .source import Source, has_partitions, has_seek, partitions_of
from .udf import Declaration

__all__ = ["describe", "partitions"]


def describe(
    step: str, function: str, directory: str, role: str = "udf", options: dict[str, Any] | None = None
) -> dict[str, Any]:
    """One answer, as JSON-ready values: ``"ok": true`` and the declaration, or ``"ok": false`` and the error."""
    try:
        if role == "source":
            return {"step": step, "ok": True, **_source_fields(load_source(function, directory, options or {}))}
        if role == "sink":
            return {"step": step, "ok": True, "name": load_sink(function, directory, options or {}).__name__}
        declaration = load(function, directory)
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        return {"step": step, "ok": False, **_failure(error)}
    return {"step": step, "ok": True, **_fields(declaration)}


def partitions(reference: str, directory: str, options: dict[str, Any], seconds_max: int) -> dict[str, Any]:
    """The names of a source's partitions, or the error. Ends this process if that takes too long."""
    signal.alarm(seconds_max)
    try:
        source = load_source(reference, directory, options)(**options)
        try:
            return {"partitions": partitions_of(source)}
        finally:
            source.close()
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        return _failure(error)
    finally:
        signal.alarm(0)


def _failure(error: BaseException) -> dict[str, str]:
    return {"error": "".join(traceback.format_exception_only(error)).strip(), "traceback": traceback.format_exc()}


def _source_fields(source: type[Source]) -> dict[str, Any]:
    return {"name": source.__name__, "seek": has_seek(source), "partitions": has_partitions(source)}


def _fields(declaration: Declaration) -> dict[str, Any]:
    return {
        "name": declaration.name,
        "module": declaration.module,
        "version": declaration.version,
        "kind": declaration.kind,
        "mode": declaration.mode,
        "arguments": list(declaration.arguments),
        "out": declaration.out != "none",
        "outputs": [
            {"name": field.name, "data_type": field.type.name, "nullable": field.type.nullable} for field in declaration.outputs
        ],
        "accepts": {column: list(types) for column, types in declaration.accepts.items()},
        "state": [
            {"name": field.name, "data_type": field.type.name, "initial": field.initial_bytes.hex()}
            for field in declaration.state
        ],
        "snapshot": declaration.has_snapshot,
    }


def main() -> int:
    """Answer the request on standard input; 0 unless the request itself is broken."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # modules that print, also from C, must not spoil the answer
    sys.stdout = sys.stderr
    request = json.load(sys.stdin)
    with answers:
        json.dump(_answer(request), answers)
        answers.write("\n")
    return 0


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    if asked := request.get("partitions"):
        return partitions(asked["class"], asked["directory"], asked["options"], asked["seconds_max"])
    entries = request["functions"]
    return {
        "functions": [
            describe(entry["step"], entry["function"], entry["directory"], entry.get("role", "udf"), entry.get("options"))
            for entry in entries
        ]
    }


if __name__ == "__main__":
    sys.exit(main())
