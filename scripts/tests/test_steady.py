"""A run with a killed worker and a hanging function counts every row once."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_a_run_with_faults_counts_every_row_once(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts/steady.py"), str(tmp_path), "--rate", "100000", "--minutes", "0.15"]
    run = subprocess.run([*command, "--fault-every", "1"], capture_output=True, text=True, env=dict(os.environ))
    assert run.returncode == 0, run.stdout + run.stderr
    assert "every row is in one window" in run.stdout
    assert "worker killed" in run.stdout
    assert "function hung" in run.stdout
