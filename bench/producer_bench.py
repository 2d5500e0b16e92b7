"""How fast a producer sends rows into a pipeline that only counts them: ``rm.connect``, two NumPy columns a batch.

Needs the ``ringmill`` command (``$RINGMILL_BIN``, or on the path) and the package; prints rows a second of each round.
"""

import argparse
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

import ringmill as rm

PIPELINE = """
[pipeline]
name = "bench"
shards = 1

[sources.rows]
kind = "producer"
fields = { number = "int64", value = "float64" }
end = "closed"

[sinks.out]
kind = "null"
inputs = ["rows"]
"""


def send(batch: int, rows: int) -> float:
    """Rows a second, from the first batch until all are taken."""
    number = np.arange(batch)
    columns = {"number": number, "value": number * 0.5}
    batches = rows // batch
    with rm.connect("bench") as producer:
        start = time.perf_counter()
        for _ in range(batches):
            producer.send(columns)
        producer.flush()
        return batches * batch / (time.perf_counter() - start)


def main() -> None:
    """Print the rounds."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--batch", type=int, default=1024, help="rows given to each send()")
    arguments.add_argument("--rows", type=int, default=100_000_000, help="rows of a round")
    arguments.add_argument("--rounds", type=int, default=5)
    given = arguments.parse_args()
    command = os.environ.get("RINGMILL_BIN") or shutil.which("ringmill")
    assert command, "there is no ringmill command: run scripts/setup, or set RINGMILL_BIN"
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_RUNTIME_DIR"] = folder
        (Path(folder) / "bench.toml").write_text(PIPELINE, encoding="utf-8")
        for _ in range(given.rounds):
            with subprocess.Popen(
                [command, "run", "bench.toml"], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            ):
                print(f"{send(given.batch, given.rows) / 1e6:.1f} M rows/s", flush=True)


if __name__ == "__main__":
    main()
