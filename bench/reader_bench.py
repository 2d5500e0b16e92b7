#!/usr/bin/env python3
"""What a batch costs in the reader, beside the UDF: one worker process at a real ring, spinning on both sides.

Run with the ringmill package installed:  python bench/reader_bench.py [--batches N]

For each kind of UDF two runs: with all slots in flight (the worker is the bottleneck, so the time per batch is the
worker's; minus the time inside the UDF it is the reader's, ring included), and with one batch in flight (round trips
core → Python → core). The reader's target is 500 ns per batch of three columns.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from ringmill._reader import LocalChannel

ROWS = 1024
SLOTS = 16
RUNS = 40
"""Short runs and the best of them: on a shared machine most runs are interrupted, and interruptions are not the reader's."""
INPUTS = [(name, "float64", False) for name in ("a", "b", "c")]
OUTPUTS = [("y", "float64", False)]
SOURCE = """
import numpy as np, ringmill as rm
ONES = np.ones(1 << 20)
@rm.udf(outputs={"y": rm.float64})
def returns_input(a, b, c): return a
@rm.udf(outputs={"y": rm.float64})
def in_place(a, b, c, out): pass
@rm.udf(outputs={"y": rm.float64})
def keeps_nothing_of_a_batch(batch: rm.Batch): return batch["a"]
@rm.udf(outputs={"y": rm.float64})
def subtracts(a, b, c): return a - b
@rm.udf(outputs={"y": rm.float64})
def z_score(a, b, c): return (a - a.mean()) / a.std()
"""
FUNCTIONS = ("returns_input", "in_place", "keeps_nothing_of_a_batch", "subtracts", "z_score")


def schema(fields: list[tuple[str, str, bool]]) -> dict[str, object]:
    """A schema as the core writes it."""
    return {"fields": [{"name": name, "data_type": kind, "nullable": nullable} for name, kind, nullable in fields]}


def start(directory: Path, function: str) -> tuple[LocalChannel, subprocess.Popen[bytes]]:
    """A worker that has answered a batch from every slot, and the core's end of its ring."""
    channel = LocalChannel(inputs=INPUTS, outputs=OUTPUTS, capacity=(ROWS, 0), slots=SLOTS)
    request_fd, response_fd, doorbell_fd = channel.worker_fds()
    capacity = {"rows_max": ROWS, "variable_bytes_max": 0}
    config = {
        "function": f"module:{function}",
        "directory": str(directory),
        "request_fd": request_fd,
        "response_fd": response_fd,
        "doorbell_fd": doorbell_fd,
        "log_fd": 2,
        "wait": "spin",
        "input": schema(INPUTS),
        "output": schema(OUTPUTS),
        "capacity": capacity,
        "output_capacity": capacity,
    }
    command = [sys.executable, "-m", "ringmill.worker", "--config", json.dumps(config)]
    process = subprocess.Popen(command, pass_fds=(request_fd, response_fd, doorbell_fd))
    for fd in (request_fd, response_fd, doorbell_fd):
        os.close(fd)
    completion = channel.poll(60.0)
    if completion is None or completion["kind"] != "ready":
        sys.exit(f"{function} did not start")
    values = np.random.default_rng(1).normal(size=(3, ROWS))
    for _ in range(SLOTS):
        channel.publish(dict(zip("abc", values, strict=True)), ROWS)
    for _ in range(SLOTS):
        completion = channel.poll(60.0)
        if completion is None or completion["kind"] != "result":
            sys.exit(f"{function} failed: {completion}")
        channel.release(completion["slot"])
    return channel, process


def main() -> None:
    """Measure every function and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=5_000)
    batches = parser.parse_args().batches
    print(f"{ROWS} rows, 3 float64 columns in, 1 out; ns per batch, best of {RUNS} runs of {batches} batches")
    print(f"{'UDF':26} {'all':>8} {'UDF':>8} {'reader':>8} {'trip p50':>9} {'trip p99':>9}")
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "module.py").write_text(SOURCE, encoding="utf-8")
        for function in FUNCTIONS:
            channel, process = start(Path(directory), function)
            channel.pump(batches // 10, ROWS, SLOTS)
            full = min(channel.pump(batches, ROWS, SLOTS) for _ in range(RUNS))
            single = min(channel.pump(batches, ROWS, 1)[2:] for _ in range(RUNS))
            channel.drain()
            process.wait()
            total, inside = full[0] / batches, full[1] / batches
            print(f"{function:26} {total:8.0f} {inside:8.0f} {total - inside:8.0f} {single[0]:9} {single[1]:9}")


if __name__ == "__main__":
    main()
