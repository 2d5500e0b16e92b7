"""The stub says what the module is, and the package is typed."""

import subprocess
import sys
from pathlib import Path

import ringmill


def test_the_stub_fits_the_module():
    done = subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", "ringmill._reader"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_the_package_says_that_it_is_typed():
    assert (Path(ringmill.__file__).parent / "py.typed").exists()


def test_everything_that_is_announced_is_there():
    assert all(hasattr(ringmill, name) for name in ringmill.__all__)
