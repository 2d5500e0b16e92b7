"""The brokers of the job `kafka`: one process, from which all clients read the same topics, and what it takes."""

import os
import subprocess
from pathlib import Path

from . import environments, measure
from .measure import RunError

BENCH = Path(__file__).parent.parent
EXAMPLE = BENCH.parent / "python-workers" / "examples" / "smart-city"
PARTITIONS = 128
"""Of a topic: these brokers keep 5 MiB of each."""


class Brokers:
    """Started with the first topic; they end with this process, or when they are told to."""

    def __init__(self, cpus: list[int]) -> None:
        self.cpus = cpus
        self.process: subprocess.Popen[str] | None = None
        self.addresses = ""
        self.topics: dict[Path, str] = {}

    def topic(self, path: Path) -> str:
        """The name of the topic with a file's lines, which are written into it if need be.

        Raises:
            RunError: the brokers ended, or do not keep as much.
        """
        if path not in self.topics:
            if self.process is None:
                self.start()
            name = path.stem
            self.say(f"{name} {PARTITIONS} {path}")
            self.hear()
            self.topics[path] = name
        return self.topics[path]

    def cpu_s(self) -> float:
        """User and system time of the brokers until now."""
        process = measure.processes().get(self.process.pid) if self.process else None
        return process.ticks / measure.TICKS if process else 0.0

    def end(self) -> None:
        """What they keep is gone."""
        if self.process:
            assert self.process.stdin
            self.process.stdin.close()
            self.process.wait()

    def start(self) -> None:
        """On the cores that the clients have, too."""
        command = ["taskset", "--cpu-list", ",".join(map(str, self.cpus)), str(environments.python("kafka"))]
        self.process = subprocess.Popen(
            [*command, "-m", "peers.engines.kafka_brokers"],
            env=os.environ | {"PYTHONPATH": f"{BENCH}:{EXAMPLE}", "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.addresses = self.hear()

    def say(self, line: str) -> None:
        """To their input."""
        assert self.process
        assert self.process.stdin
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        """A line of theirs."""
        assert self.process
        assert self.process.stdout
        line = self.process.stdout.readline().strip()
        if not line:
            raise RunError("the brokers ended; what they said stands above")
        return line
