"""What is measured: every job with every engine that can do it, with its sizes.

An engine's rows are chosen so that a run takes a few seconds of steady work; its rate is that of the rows beyond those of a tiny
run (START_ROWS), which gives the start-up.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import data, environments, oracle

START_ROWS = 1024
"""Rows of a run that shows what starting and ending takes."""
VALUES = 1 << 22
"""Length of the array (and file) of J1 and J3."""
JOBS = {
    "J1": "NumPy z-score over batches of 1,024 rows, in another process where the engine has one",
    "J2": "1 s tumbling windows in event time, average of each of 1,000 keys, NumPy score of the averages; file to file",
    "J2-500k": "the same with 500,000 keys",
    "J3": "1 ms of processor time for every 1,024 rows, by workers",
    "J4": "JSON events of 1.2 KB, four fields, then J2; file to file",
    "kafka": "J4 from the topic of a Kafka broker to a file",
    "latency": "J2 live, by intended time: from the event that closes a window to its results",
    "ring": "messages between two processes, payload written and read",
}


@dataclass(frozen=True)
class Case:
    """One engine in one configuration with one job."""

    job: str
    engine: str
    variant: str
    rows: int
    """In the full mode."""
    rows_quick: int
    workers: int = 1
    check: str = "windows"
    """windows, digest, row_digest or ringmill: how its output is compared with the oracle."""
    rate: int | None = None
    """Events a second, of latency."""
    best: bool = True
    """Whether the configuration is one that its users would choose; the others are shown, too."""
    note: str = ""
    settings: tuple[str, ...] = field(default=())

    @property
    def name(self) -> str:
        """Fit for a file name."""
        parts = [self.job, self.engine, self.variant.replace(" ", "-"), f"{self.workers}w" if self.job == "J3" else ""]
        parts.append(f"{self.rate}" if self.rate else "")
        return "-".join(part for part in parts if part).lower()

    @property
    def stream(self) -> data.Stream:
        """Of J2, J4 and kafka."""
        return {"J2-500k": data.J2_MANY, "J4": data.J4, "kafka": data.J4}.get(self.job, data.J2)


LATE = "its clock waits 500 ms for rows that come late; with less it takes rows in order for late ones and drops them"
EARLY_SETTINGS = ("sources.readings.stop_early=true",)
EARLY = "what stands behind the last of the four fields is neither read nor checked"
ENVIRONMENT = {"bytewax": "bytewax", "pathway": "pathway", "pyflink": "flink", "aiokafka": "kafka", "confluent-kafka": "kafka"}
"""By engine; the others share that of the transports."""
PROGRAM = {
    "bytewax": "bytewax_flow",
    "pathway": "pathway_flow",
    "pyflink": "flink_table",
    "aiokafka": "kafka_clients",
    "confluent-kafka": "kafka_clients",
}
PACKAGE = {
    "bytewax": "bytewax",
    "pathway": "pathway",
    "pyflink": "apache-flink",
    "zeromq": "pyzmq",
    "iceoryx2": "iceoryx2",
    "iceoryx2-python": "iceoryx2",
    "aiokafka": "aiokafka",
    "confluent-kafka": "confluent-kafka",
}


def requirements(engine: str) -> str:
    """The environment's name."""
    return ENVIRONMENT.get(engine, "transports")


def version(engine: str) -> str | None:
    """Of the engine, where it has one of its own."""
    return environments.version(requirements(engine), PACKAGE[engine]) if engine in PACKAGE else None


def cases() -> Iterator[Case]:
    """All of them, without those of the ring."""
    million = 1_000_000
    yield from stateless(1_000 * oracle.BATCH_ROWS)
    yield from windows(million)
    yield from heavy()
    yield Case("J4", "ringmill", "", million, 200_000)
    yield Case("J4", "ringmill", "stop_early", million, 200_000, best=False, note=EARLY, settings=EARLY_SETTINGS)
    yield Case("J4", "bytewax", "batched", 60_000, 20_000)
    yield Case("J4", "bytewax", "arrays", 60_000, 20_000, note="sums by key and window made by hand before the window")
    yield Case("J4", "pathway", "", 200_000, 50_000)
    yield Case("J4", "pyflink", "tuned", 400_000, 100_000)
    yield Case("kafka", "ringmill", "stop_early", million // 2, 100_000, best=False, note=EARLY, settings=EARLY_SETTINGS)
    for engine, variant in (("ringmill", ""), ("aiokafka", "json"), ("confluent-kafka", "orjson")):
        yield Case("kafka", engine, variant, million // 2, 100_000)
    for engine, variant, rates in (
        ("ringmill", "", (10_000, 100_000, 400_000)),
        ("bytewax", "batched", (10_000,)),
        ("pathway", "", (10_000,)),
        ("pyflink", "tuned", (10_000, 100_000)),
    ):
        for rate in rates:
            yield Case("latency", engine, variant, 0, 0, rate=rate, note=LATE if engine == "bytewax" else "")


def stateless(million: int) -> Iterator[Case]:
    """J1, in whole batches."""
    fixed = "against a fixed mean and deviation, which is less work"
    yield Case("J1", "ringmill", "", 240 * million, 60 * million, check="ringmill")
    yield Case("J1", "bytewax", "rows", 20 * million, 4 * million, check="row_digest", best=False, note=fixed)
    yield Case("J1", "bytewax", "batched", 20 * million, 4 * million, check="digest")
    yield Case("J1", "bytewax", "arrays", 120 * million, 20 * million, check="digest", note="one process, nothing is passed on")
    yield Case("J1", "pathway", "", VALUES // 4, VALUES // 16, check="row_digest", note=fixed)
    yield Case("J1", "pyflink", "default", VALUES // 4, VALUES // 8, check="row_digest", best=False, note=fixed)
    yield Case("J1", "pyflink", "tuned", VALUES // 2, VALUES // 4, check="row_digest", note=fixed)
    yield Case("J1", "multiprocessing", "queue", 24 * million, 8 * million, check="digest")
    yield Case("J1", "multiprocessing", "pool", 24 * million, 8 * million, check="digest")
    yield Case("J1", "futures", "shared memory", 24 * million, 8 * million, check="digest")
    yield Case("J1", "zeromq", "ipc", 60 * million, 12 * million, check="digest")


def windows(million: int) -> Iterator[Case]:
    """J2."""
    yield Case("J2", "ringmill", "", 16 * million, 4 * million)
    for variant, best in (("rows", False), ("batched", True), ("arrays", True)):
        yield Case("J2", "bytewax", variant, 150_000, 60_000, best=best, note=presummed(variant))
    yield Case("J2", "pathway", "", 500_000, 150_000)
    yield Case("J2", "pyflink", "default", million, 400_000, best=False)
    yield Case("J2", "pyflink", "tuned", 2 * million, 400_000)
    yield Case("J2-500k", "ringmill", "", 8 * million, 2 * million)
    yield Case("J2-500k", "bytewax", "batched", 150_000, 60_000)
    yield Case("J2-500k", "pathway", "", 500_000, 150_000)
    yield Case("J2-500k", "pyflink", "tuned", 2 * million, 400_000)


def presummed(variant: str) -> str:
    """What is to be known of a variant of Bytewax."""
    return "sums by key and window made by hand before the window" if variant == "arrays" else ""


def heavy() -> Iterator[Case]:
    """J3."""
    batches = 1024
    for workers in (1, 2):
        rows, quick = 2500 * batches * workers, 1000 * batches * workers
        yield Case("J3", "ringmill", "", rows, quick, workers, "ringmill", settings=(f"steps.scores.workers={workers}",))
        yield Case("J3", "bytewax", "arrays", rows, quick, workers, "digest")
        for engine, variant in (("multiprocessing", "pool"), ("futures", "shared memory"), ("zeromq", "ipc")):
            yield Case("J3", engine, variant, rows, quick, workers, "digest")
        yield Case("J3", "pyflink", "tuned", 1000 * batches * workers, 500 * batches * workers, workers, "row_digest")
    yield Case("J3", "pathway", "", 1000 * batches, 400 * batches, 1, "row_digest")


def input_of(case: Case, rows: int, folder: Path) -> Path:
    """The file that the engine reads, made if need be."""
    if case.job in ("J1", "J3"):
        if case.check == "row_digest" and case.engine != "bytewax":
            header = case.engine != "pyflink"  # whose CSV format has none
            name = f"values-{rows}{'' if header else '-no-header'}.csv"
            return data.ensure(folder, name, lambda path: write_values(path, rows, header))
        return data.ensure(folder, "values.npy", save_values)
    if case.job in ("J4", "kafka"):
        return data.ensure(folder, f"{case.stream.name}-{rows}.ndjson", lambda path: data.write_ndjson(path, case.stream, rows))
    header = case.engine in ("ringmill", "pathway")
    name = f"{case.stream.name}-{rows}{'' if header else '-no-header'}.csv"
    return data.ensure(folder, name, lambda path: data.write_csv(path, case.stream, rows, header=header))


def save_values(path: Path) -> None:
    """The array of J1 and J3."""
    import numpy as np

    with path.open("wb") as file:
        np.save(file, data.values(VALUES))


def write_values(path: Path, rows: int, header: bool) -> None:
    """The same as `number,value` lines."""
    with path.open("w", encoding="utf-8") as file:
        if header:
            file.write("number,value\n")
        file.writelines(f"{number},{value}\n" for number, value in enumerate(data.values(VALUES)[:rows].tolist()))


def command(case: Case, rows: int, source: Path, output: Path) -> list[str]:
    """Of a peer."""
    program = PROGRAM.get(case.engine, "transports")
    variant = {"shared memory": "futures", "ipc": "zeromq"}.get(case.variant, case.variant)
    job = "J2" if case.job == "J2-500k" else case.job
    arguments: list[Any] = ["--job", job, "--variant", variant, "--rows", rows, "--workers", case.workers]
    arguments += ["--input", source, "--output", output]
    interpreter = environments.python(requirements(case.engine))
    return [str(interpreter), "-m", f"peers.engines.{program}", *map(str, arguments)]
