"""A run of the pipeline that is killed now and then."""

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

PATIENCE = 60.0
"""Seconds that an orderly end may take."""


@dataclass
class Mill:
    """`ringmill run`, started again whenever it was killed."""

    command: list[str]
    folder: Path
    workers_killed: int = 0
    cores_killed: int = 0
    _core: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self._start()

    def _start(self) -> None:
        environment = os.environ | {"RINGMILL_PYTHON": sys.executable}
        with (self.folder / "log.txt").open("ab") as log:
            self._core = subprocess.Popen(self.command, cwd=self.folder, env=environment, stderr=log)

    def check(self) -> None:
        """Ends the demo if the run has ended."""
        if self._core.poll() is not None:
            log = (self.folder / "log.txt").read_text(encoding="utf-8")
            sys.exit(f"error: ringmill ended with exit code {self._core.returncode}\n{log}")

    def workers(self) -> list[int]:
        """Its worker processes."""
        found: list[int] = []
        for children in Path(f"/proc/{self._core.pid}/task").glob("*/children"):
            try:
                found += [int(pid) for pid in children.read_text(encoding="ascii").split()]
            except OSError:
                continue  # The thread has just ended.
        return found

    def kill_a_worker(self) -> None:
        """The core replaces it. One that is just being started is waited for."""
        while not (workers := self.workers()):
            self.check()
            time.sleep(0.01)
        os.kill(random.choice(workers), signal.SIGKILL)
        self.workers_killed += 1

    def kill_the_core(self) -> None:
        """And starts it again."""
        self._core.kill()
        self._core.wait()
        self.cores_killed += 1
        self._start()

    def end(self) -> None:
        """Asks it to end, and waits."""
        self._core.send_signal(signal.SIGTERM)
        self._core.wait(PATIENCE)
