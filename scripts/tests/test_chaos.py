"""The demo with kills ends with the same totals as without."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_a_demo_with_kills_ends_as_one_without(tmp_path: Path) -> None:
    pipeline = ROOT / "python-workers/examples/telemetry/pipeline.toml"
    command = [sys.executable, str(ROOT / "scripts/chaos.py"), str(pipeline), str(tmp_path)]
    run = subprocess.run([*command, "--rows", "12000000", "--kills", "5"], capture_output=True, text=True, env=dict(os.environ))
    assert run.returncode == 0, run.stdout + run.stderr
    assert "nothing lost, nothing repeated" in run.stdout
    assert "were killed" in run.stdout
