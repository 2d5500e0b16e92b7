"""The worker process, started as the core starts it, at a real ring."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ringmill._reader import LocalChannel

INPUTS = [("x", "float64", False)]
OUTPUTS = [("y", "float64", False)]


class Process:
    """A worker process and the core's end of its ring."""

    def __init__(self, directory: Path, function: str, *, channel: LocalChannel | None = None, wait: str = "adaptive"):
        self.core = channel or LocalChannel(inputs=INPUTS, outputs=OUTPUTS, capacity=(64, 4096), slots=4)
        request_fd, response_fd, doorbell_fd = self.core.worker_fds()
        self._log, log_fd = os.pipe()
        capacity = {"rows_max": 64, "variable_bytes_max": 4096}
        config = {
            "step": "scores",
            "shard": 0,
            "index": 0,
            "worker": "scores/0/0",
            "function": function,
            "directory": str(directory),
            "request_fd": request_fd,
            "response_fd": response_fd,
            "doorbell_fd": doorbell_fd,
            "log_fd": log_fd,
            "wait": wait,
            "input": _schema(INPUTS),
            "output": _schema(OUTPUTS),
            "capacity": capacity,
            "output_capacity": capacity,
        }
        inherited = (request_fd, response_fd, doorbell_fd, log_fd)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ringmill.worker", "--config", json.dumps(config)],
            pass_fds=inherited,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for fd in inherited:
            os.close(fd)

    def poll(self) -> dict[str, Any]:
        completion = self.core.poll(30.0)
        assert completion is not None, "the worker did not answer within 30 s"
        return completion

    def ready(self) -> "Process":
        assert self.poll()["kind"] == "ready"
        return self

    def ask(self, x: Any) -> dict[str, Any]:
        assert self.core.publish({"x": x}, len(x)) is not None
        completion = self.poll()
        self.core.release(completion["slot"])
        return completion

    def end(self) -> tuple[int, list[dict[str, Any]], bytes, bytes]:
        """Wait for the process; its status, log records, standard output and error."""
        stdout, stderr = self.process.communicate(timeout=30)
        with os.fdopen(self._log, "rb") as log:
            records = [json.loads(line) for line in log]
        return self.process.returncode, records, stdout, stderr

    def drain(self) -> tuple[int, list[dict[str, Any]], bytes, bytes]:
        self.core.drain()
        return self.end()


def _schema(fields: Any) -> dict[str, Any]:
    return {"fields": [{"name": name, "data_type": kind, "nullable": nullable} for name, kind, nullable in fields]}


Start = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a worker over a module with this source."""
    processes: list[Process] = []

    def start(source: str, function: str = "module:udf", **options: Any) -> Process:
        (tmp_path / "module.py").write_text(textwrap.dedent(source), encoding="utf-8")
        processes.append(Process(tmp_path, function, **options))
        return processes[-1]

    yield start
    for process in processes:
        process.process.kill()
        process.process.wait()


DOUBLE = """
    import ringmill as rm

    @rm.udf(outputs={"y": rm.float64})
    def udf(x):
        return x * 2
"""


@pytest.mark.parametrize("wait", ["spin", "adaptive", "block"])
def test_batches_are_answered_until_drained(start: Start, wait: str) -> None:
    worker = start(DOUBLE, wait=wait).ready()
    for number in range(50):
        completion = worker.ask(np.full(number % 9, float(number)))
        assert completion["kind"] == "result"
        assert completion["batch"] == number + 1
        assert completion["columns"]["y"].tolist() == [2.0 * number] * (number % 9)
    assert worker.drain() == (0, [], b"", b"")


def test_what_is_published_before_a_drain_is_answered(start: Start) -> None:
    worker = start(DOUBLE).ready()
    for number in range(4):
        assert worker.core.publish({"x": np.array([float(number)])}, 1) is not None
    worker.core.drain()
    assert [worker.poll()["columns"]["y"].tolist() for _ in range(4)] == [[0.0], [2.0], [4.0], [6.0]]
    assert worker.end()[0] == 0


def test_a_class_is_set_up_once_and_keeps_its_state(start: Start) -> None:
    worker = start("""
        import numpy as np, ringmill as rm

        @rm.udf(outputs={"y": rm.float64})
        class udf:
            def setup(self):
                print("setting up")
                self.rows = 0

            def __call__(self, x):
                self.rows += len(x)
                return np.full(len(x), self.rows)
    """).ready()
    assert [worker.ask(np.zeros(2))["columns"]["y"].tolist() for _ in range(3)] == [[2.0, 2.0], [4.0, 4.0], [6.0, 6.0]]
    status, records, _, _ = worker.drain()
    assert status == 0
    assert [(record["message"], record["batch"]) for record in records] == [("setting up", None)]


def test_print_logging_and_warnings_reach_the_log_with_their_batch(start: Start) -> None:
    worker = start("""
        import logging, sys, warnings
        import ringmill as rm

        @rm.udf(outputs={"y": rm.float64})
        def udf(x):
            print("two", "words")
            print("half a ", end="")
            print("line\\nand another", file=sys.stderr)
            logging.getLogger("my.logger").error("row %d", 7)
            logging.getLogger("my.logger").debug("not this")
            warnings.warn("careful")
            print("line")
            return x
    """).ready()
    worker.ask(np.zeros(1))
    worker.ask(np.zeros(1))
    status, records, stdout, stderr = worker.drain()
    assert (status, stdout, stderr) == (0, b"", b"")
    first = [record for record in records if record["batch"] == 1]
    assert [
        (record["level"], record["stream"], record["logger"], record["message"])
        for record in first
        if "careful" not in record["message"]
    ] == [
        ("info", "stdout", None, "two words"),
        ("warning", "stderr", None, "line"),
        ("warning", "stderr", None, "and another"),
        ("error", "logging", "my.logger", "row 7"),
        ("info", "stdout", None, "half a line"),
    ]
    assert [record["level"] for record in records if "careful" in record["message"]] == ["warning"]
    assert {record["batch"] for record in records} == {1, 2}


def test_descriptors_1_and_2_stay_for_c_code(start: Start) -> None:
    worker = start("""
        import os
        import ringmill as rm

        @rm.udf(outputs={"y": rm.float64})
        def udf(x):
            os.write(1, b"from C")
            os.write(2, b"also")
            return x
    """).ready()
    worker.ask(np.zeros(1))
    status, records, stdout, stderr = worker.drain()
    assert (status, records, stdout, stderr) == (0, [], b"from C", b"also")


def test_a_runaway_print_is_cut(start: Start) -> None:
    worker = start("""
        import sys
        import ringmill as rm

        @rm.udf(outputs={"y": rm.float64})
        def udf(x):
            print("ж" * 1_000_000)
            sys.stdout.buffer.write(b"bytes \\xff\\n")
            return x
    """).ready()
    worker.ask(np.zeros(1))
    status, records, _, _ = worker.drain()
    assert status == 0
    assert all(len(json.dumps(record)) < 64 * 1024 for record in records)
    assert records[-1]["message"].endswith("bytes \\xff")


def test_what_a_udf_starts_inherits_none_of_the_descriptors(start: Start) -> None:
    worker = start("""
        import os
        import ringmill as rm

        @rm.udf(outputs={"y": rm.float64})
        def udf(x):
            os.system("ls /proc/self/fd > /dev/stderr")
            return x
    """).ready()
    worker.ask(np.zeros(1))
    _, _, _, stderr = worker.drain()
    assert set(stderr.split()) <= {b"0", b"1", b"2", b"3"}  # 3 is the folder that ls reads


def test_an_exception_is_an_answer_and_the_worker_goes_on(start: Start) -> None:
    worker = start("""
        import ringmill as rm

        @rm.udf(outputs={"y": rm.float64})
        def udf(x):
            if x[0] < 0:
                raise ValueError(f"negative: {x[0]}")
            return x
    """).ready()
    completion = worker.ask(np.array([-1.0]))
    assert completion["kind"] == "failed"
    failure = json.loads(completion["failure"])
    assert failure["error"] == "ValueError: negative: -1.0"
    assert re.search(r'module.py", line \d+, in udf', failure["traceback"])
    assert worker.ask(np.array([1.0]))["columns"]["y"].tolist() == [1.0]
    assert worker.drain()[0] == 0


def test_ctrl_c_does_not_disturb_a_worker(start: Start) -> None:
    worker = start(DOUBLE).ready()
    worker.process.send_signal(signal.SIGINT)
    assert worker.ask(np.array([1.0]))["columns"]["y"].tolist() == [2.0]
    assert worker.drain()[0] == 0


def test_a_crash_leaves_its_stack_on_standard_error(start: Start) -> None:
    worker = start("""
        import ctypes
        import ringmill as rm

        @rm.udf(outputs={"y": rm.float64})
        def udf(x):
            ctypes.string_at(0)
    """).ready()
    assert worker.core.publish({"x": np.zeros(1)}, 1) is not None
    status, _, _, stderr = worker.end()
    assert status == -signal.SIGSEGV
    assert b"Segmentation fault" in stderr
    assert b"in udf" in stderr


def test_a_udf_that_writes_its_input_fails_its_batch_only(start: Start) -> None:
    worker = start("""
        import ringmill as rm

        @rm.udf(outputs={"y": rm.float64})
        def udf(x):
            x += 1
            return x
    """).ready()
    assert "output array is read-only" in json.loads(worker.ask(np.zeros(1))["failure"])["error"]
    assert worker.drain()[0] == 0


CANNOT_START = [
    ("import ringmill", "module:udf", "LoadError: module 'module' has no 'udf'"),
    ("def udf(x): ...", "module:udf", "LoadError: module:udf is not a UDF: decorate it with @rm.udf(outputs={...})"),
    ("", "elsewhere:udf", "LoadError: no module 'elsewhere' in"),
    ("", "module", "LoadError: 'module' is not of the form module:function"),
    ("import nowhere", "module:udf", "ModuleNotFoundError: No module named 'nowhere'"),
    ("1/0", "module:udf", "ZeroDivisionError: division by zero"),
    ("import sys; sys.exit(5)", "module:udf", "SystemExit: 5"),
    (
        DOUBLE.replace("(x)", "(z)").replace("x *", "z *"),
        "module:udf",
        "SchemaError: UDF udf: column 'z' is missing (its input has x: float64)",
    ),
    (
        DOUBLE.replace("float64", "float32"),
        "module:udf",
        "RuntimeError: UDF udf now declares outputs y: float32, but the pipeline",
    ),
    (DOUBLE.replace('outputs={"y": rm.float64}', ""), "module:udf", "DeclarationError: udf: outputs= is missing"),
    (
        """
        import ringmill as rm
        @rm.udf(outputs={"y": rm.float64})
        class udf:
            def setup(self): raise OSError("no model")
            def __call__(self, x): ...
        """,
        "module:udf",
        "OSError: no model",
    ),
]


@pytest.mark.parametrize(("source", "function", "message"), CANNOT_START)
def test_what_prevents_a_start_is_a_fatal_record(start: Start, source: str, function: str, message: str) -> None:
    status, records, _, _ = start(source, function).end()
    assert status == 3
    assert records[-1]["level"] == "fatal"
    assert message in records[-1]["message"]
    assert "Traceback" in records[-1]["traceback"]


def test_a_channel_of_other_columns_is_refused(start: Start) -> None:
    other = LocalChannel(inputs=INPUTS, outputs=OUTPUTS, capacity=(32, 0))
    status, records, _, _ = start(DOUBLE, channel=other).end()
    assert status == 3
    assert "failed to attach to the channel" in records[-1]["message"]
