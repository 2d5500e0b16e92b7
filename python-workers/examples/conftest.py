"""Runs an example as a person would: its folder, the real ``ringmill`` command, real worker processes."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from jobs import Example, Run, Start

EXAMPLES = Path(__file__).parent


@pytest.fixture
def example(tmp_path: Path) -> Example:
    """Copies an example's folder and returns the copy; each call makes a new one."""
    copies = itertools.count()

    def copy(name: str) -> Path:
        target = tmp_path / str(next(copies)) / name
        return shutil.copytree(EXAMPLES / name, target, ignore=shutil.ignore_patterns("test_*", "__pycache__"))

    return copy


@pytest.fixture
def run() -> Start:
    """Runs the pipeline in a folder; every further argument is a `key=value` that replaces a setting."""
    command = os.environ.get("RINGMILL_BIN") or shutil.which("ringmill")
    assert command, "there is no ringmill command: run scripts/setup, or set RINGMILL_BIN"

    def start(folder: Path, *settings: str) -> Run:
        arguments = [command, "run", "pipeline.toml", "--report", "report.json"]
        for setting in settings:
            arguments += ["--set", setting]
        environment = os.environ | {"RINGMILL_PYTHON": sys.executable}
        done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return Run(folder, json.loads((folder / "report.json").read_text(encoding="utf-8")), done.stdout)

    return start
