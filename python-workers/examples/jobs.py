"""What the tests of the examples hand each other; see conftest.py."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Run:
    """A run that ended well."""

    folder: Path
    """The example's folder (a copy), with what the run wrote."""
    report: dict[str, Any]
    stdout: str

    def rows(self, file: str) -> list[dict[str, Any]]:
        """The rows of an NDJSON file that the run wrote."""
        return [json.loads(line) for line in (self.folder / file).read_text(encoding="utf-8").splitlines()]


Example = Callable[[str], Path]
"""Copies the example of that name and returns the copy's folder."""

Start = Callable[..., Run]
"""Runs the pipeline in a folder; every further argument is a `key=value` that replaces a setting."""
