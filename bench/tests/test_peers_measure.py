"""A program that fails or hangs says so, and leaves nothing behind."""

import re
import sys
import time
from pathlib import Path

import pytest
from peers import measure

WITH_CHILD = "import subprocess, sys, time, os; print('child', subprocess.Popen(['sleep', '1000']).pid, flush=True); "


def has_ended(said: str) -> bool:
    """The child that the program said it had; a dead one has no command line, also where nobody waits for it."""
    match = re.search(r"child (\d+)", said)
    assert match, said
    for _ in range(500):
        try:
            if not Path("/proc", match[1], "cmdline").read_bytes():
                return True
        except OSError:
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize(
    ("then", "how"),
    [
        ("sys.exit(3)", "exit code 3"),
        ("os.kill(os.getpid(), 11)", "killed by SIGSEGV"),
        ("time.sleep(1000)", "still running after 2 s"),
    ],
)
def test_a_failed_program_says_how_and_leaves_no_child(then: str, how: str, tmp_path: Path) -> None:
    with pytest.raises(measure.RunError, match=how) as raised:
        measure.output_of([sys.executable, "-c", WITH_CHILD + then], {}, tmp_path, 2.0)
    assert has_ended(str(raised.value))


def test_a_child_that_outlives_its_program_is_killed(tmp_path: Path) -> None:
    said = measure.output_of([sys.executable, "-c", WITH_CHILD + "print('fine')"], {}, tmp_path, 20.0)
    assert said.endswith("fine\n")
    assert has_ended(said)
