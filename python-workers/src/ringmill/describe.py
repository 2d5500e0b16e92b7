"""``python -m ringmill.describe``: tells the core what the UDFs of a pipeline take and return.

Reads ``{"functions": [{"step", "function", "directory"}, ...]}`` from standard input and writes
``{"functions": [...]}`` with one answer for each to standard output, in order. What the users' modules print while
they are imported goes to standard error. No UDF runs, and no ``setup()``.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import Any

from .loading import load
from .udf import Declaration

__all__ = ["describe"]


def describe(step: str, function: str, directory: str) -> dict[str, Any]:
    """One answer, as JSON-ready values: ``"ok": true`` and the declaration, or ``"ok": false`` and the error."""
    try:
        declaration = load(function, directory)
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        return {
            "step": step,
            "ok": False,
            "error": "".join(traceback.format_exception_only(error)).strip(),
            "traceback": traceback.format_exc(),
        }
    return {"step": step, "ok": True, **_fields(declaration)}


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
    functions = [describe(entry["step"], entry["function"], entry["directory"]) for entry in request["functions"]]
    with answers:
        json.dump({"functions": functions}, answers)
        answers.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
