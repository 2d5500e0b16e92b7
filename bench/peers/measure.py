"""One run of one program: pinned to the cores that all of them get, with its time, processor time and memory.

Memory is the greatest sum of the resident sets of the program and everything that it started, looked at five times a
second; pages that two processes share count in both.
"""

import contextlib
import os
import resource
import signal
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

PERIOD_S = 0.2
PAGE = os.sysconf("SC_PAGE_SIZE")
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Measured:
    """What a run took."""

    wall_s: float
    cpu_s: float
    """User and system time of the whole tree."""
    memory_bytes: int


class RunError(Exception):
    """A program that ended badly or never; its last lines."""


@dataclass(frozen=True)
class Process:
    """A line of /proc."""

    parent: int
    ticks: int
    resident_pages: int


def processes() -> dict[int, Process]:
    """Everything that runs."""
    found = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                text = Path(entry.path, "stat").read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue  # it ended meanwhile
            # The name, in parentheses, may hold anything.
            fields = text[text.rindex(")") + 2 :].split()
            found[int(entry.name)] = Process(int(fields[1]), int(fields[11]) + int(fields[12]), int(fields[21]))
    return found


def tree(root: int, all_of_them: dict[int, Process]) -> list[int]:
    """The process and its descendants."""
    members = {root} & all_of_them.keys()
    grew = True
    while grew:
        children = {pid for pid, process in all_of_them.items() if process.parent in members} - members
        members |= children
        grew = bool(children)
    return sorted(members)


class Watch(threading.Thread):
    """Looks at a tree until it is told to stop."""

    def __init__(self, root: int) -> None:
        super().__init__(daemon=True)
        self.root = root
        self.over = threading.Event()
        self.memory_bytes = 0
        self.ticks: dict[int, int] = {}

    def run(self) -> None:
        while not self.over.wait(PERIOD_S):
            self.look()

    def look(self) -> None:
        """Once."""
        seen = processes()
        members = tree(self.root, seen)
        self.memory_bytes = max(self.memory_bytes, sum(seen[pid].resident_pages for pid in members) * PAGE)
        self.ticks |= {pid: seen[pid].ticks for pid in members}


def children_cpu_s() -> float:
    """Processor time of everything that was waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run(command: list[str], cpus: list[int], environment: dict[str, str], folder: Path, timeout_s: float) -> Measured:
    """Runs it to its end in `folder`; what it leaves behind is killed.

    Raises:
        RunError: it returned something else than 0, or was still running after `timeout_s`.
    """
    cpu_before = children_cpu_s()
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as text:
        start = time.perf_counter()
        child = started(["taskset", "--cpu-list", ",".join(map(str, cpus)), *command], environment, folder, text)
        watch = Watch(child.pid)
        watch.look()
        watch.start()
        status = status_of(child, timeout_s)
        wall_s = time.perf_counter() - start
        watch.over.set()
        watch.join()
        end_group(child)
        if status != 0:
            text.seek(0)
            raise RunError(failure(status, timeout_s, text.read()))
    cpu_s = max(children_cpu_s() - cpu_before, sum(watch.ticks.values()) / TICKS)
    return Measured(wall_s, cpu_s, watch.memory_bytes)


def output_of(command: list[str], environment: dict[str, str], folder: Path, timeout_s: float) -> str:
    """Runs a program that pins and measures itself, and returns what it wrote; what it leaves behind is killed.

    Raises:
        RunError: it returned something else than 0, or was still running after `timeout_s`.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as text:
        child = started(command, environment, folder, text)
        status = status_of(child, timeout_s)
        end_group(child)
        text.seek(0)
        written = text.read()
    if status != 0:
        raise RunError(failure(status, timeout_s, written))
    return written


def started(command: list[str], environment: dict[str, str], folder: Path, text: IO[str]) -> "subprocess.Popen[bytes]":
    """A program in a session of its own, so that all of it can be ended; what it says goes to `text`."""
    return subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        stdout=text,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def status_of(child: "subprocess.Popen[bytes]", timeout_s: float) -> int | None:
    """How it ended, or nothing if it did not in that time."""
    try:
        return child.wait(timeout_s)
    except subprocess.TimeoutExpired:
        return None


def failure(status: int | None, timeout_s: float, written: str) -> str:
    """How a program ended, and its last lines."""
    if status is None:
        ended = f"still running after {timeout_s:g} s"
    elif status < 0:
        ended = f"killed by {signal.Signals(-status).name}"
    else:
        ended = f"exit code {status}"
    return f"{ended}: " + " | ".join(written.strip().splitlines()[-8:])


def end_group(child: "subprocess.Popen[bytes]") -> None:
    """Kills what is left of the child's session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
