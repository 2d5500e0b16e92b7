"""PyFlink: the Table API with a vectorised (pandas) UDF in process mode, windows in SQL, one task slot for each worker.

default  as it comes: bundles and Arrow batches of 1,000 rows, flushed after a second
tuned    bundles of 100,000 rows, Arrow batches of 10,000 (1,024 for J3), objects reused
latency  J2 from a socket to standard output: watermarks every millisecond, bundles flushed after 10 ms
"""

import json
import os
import sys
from typing import Any

import pandas as pd  # type: ignore[import-untyped,unused-ignore]  # of this peer's environment
from pyflink.common import Configuration  # type: ignore[import-not-found]
from pyflink.datastream import DataStream, StreamExecutionEnvironment  # type: ignore[import-not-found]
from pyflink.table import (  # type: ignore[import-not-found]
    DataTypes,
    EnvironmentSettings,
    Schema,
    StreamTableEnvironment,
    TableEnvironment,
)
from pyflink.table.udf import udf  # type: ignore[import-not-found]

from peers.engines.job import BATCH_ROWS, Job, heavy, told
from peers.engines.job import score as score_of

DIGEST = f"SELECT COUNT(*), SUM(score * (MOD(number, {BATCH_ROWS}) + 1)) FROM scored"


def scores(values: "pd.Series[float]") -> "pd.Series[float]":
    """Of a batch."""
    return pd.Series(score_of(values.to_numpy()))


def heavy_scores(values: "pd.Series[float]") -> "pd.Series[float]":
    """The same and 1 ms of processor time for each batch."""
    heavy(values.to_numpy())
    return scores(values)


def environment(job: Job) -> Any:
    """A cluster of its own in this process."""
    settings = {
        "python.executable": sys.executable,
        "python.client.executable": sys.executable,
        "python.execution-mode": "process",
        "parallelism.default": str(job.workers),
        "rest.port": "0",
        "table.local-time-zone": "UTC",
    }
    if job.variant == "tuned":
        settings |= {
            "python.fn-execution.bundle.size": "100000",
            "python.fn-execution.arrow.batch.size": "1024" if job.name == "J3" else "10000",
            "pipeline.object-reuse": "true",
        }
    if job.name == "latency":
        settings |= {
            "python.fn-execution.bundle.time": "10",
            "pipeline.auto-watermark-interval": "1 ms",
            "execution.buffer-timeout.interval": "1 ms",
        }
    configuration = Configuration()
    for name, value in settings.items():
        configuration.set_string(name, value)
    if job.name == "latency":
        stream = StreamExecutionEnvironment.get_execution_environment(configuration)
        tables = StreamTableEnvironment.create(stream)
        for name, value in settings.items():
            tables.get_config().set(name, value)
        lines_from_socket(stream, tables)
    else:
        builder = EnvironmentSettings.new_instance().with_configuration(configuration)
        mode = builder.in_batch_mode() if job.name in ("J1", "J3") else builder.in_streaming_mode()
        tables = TableEnvironment.create(mode.build())
    function = heavy_scores if job.name == "J3" else scores
    tables.create_temporary_function("score_of", udf(function, result_type=DataTypes.DOUBLE(), func_type="pandas"))
    return tables


def lines_from_socket(stream: Any, tables: Any) -> None:
    """Flink's socket source as a table called events; PyFlink has no name for it, so it is asked for in Java."""
    port = int(os.environ["PEERS_PORT"])
    lines = DataStream(stream._j_stream_execution_environment.socketTextStream("localhost", port))
    schema = (
        Schema.new_builder()
        .column("f0", DataTypes.STRING())
        .column_by_expression("device", "SPLIT_INDEX(f0, ',', 0)")
        .column_by_expression("temperature", "CAST(SPLIT_INDEX(f0, ',', 2) AS DOUBLE)")
        .column_by_expression("event_time", "TO_TIMESTAMP_LTZ(CAST(SPLIT_INDEX(f0, ',', 1) AS BIGINT), 3)")
        .watermark("event_time", "event_time - INTERVAL '0.001' SECOND")
        .build()
    )
    tables.create_temporary_view("events", tables.from_data_stream(lines, schema))


def source(tables: Any, job: Job, columns: str, form: str) -> None:
    """The file as a table called events."""
    tables.execute_sql(
        f"CREATE TABLE events ({columns}) WITH ('connector' = 'filesystem', 'path' = 'file://{job.input}', 'format' = '{form}')"
    )


def results(tables: Any, job: Job, columns: str) -> None:
    """A folder of CSV files as a table called results."""
    tables.execute_sql(
        f"CREATE TABLE results ({columns}) WITH ('connector' = 'filesystem', 'path' = 'file://{job.output}', 'format' = 'csv')"
    )


def stateless(job: Job) -> None:
    """J1 and J3: the digest is summed by Flink, in batch mode's blink of an aggregate at the end."""
    tables = environment(job)
    source(tables, job, "number BIGINT, `value` DOUBLE", "csv")
    tables.execute_sql("CREATE TEMPORARY VIEW scored AS SELECT number, score_of(`value`) AS score FROM events")
    with tables.execute_sql(DIGEST).collect() as rows:
        count, digest = next(iter(rows))
    job.output.write_text(json.dumps({"rows": count, "digest": (digest or 0.0) / BATCH_ROWS}), encoding="utf-8")


RESULTS = "device STRING, started BIGINT, average DOUBLE, score DOUBLE"
EVENT_TIME = "event_time AS TO_TIMESTAMP_LTZ(`timestamp`, 3), WATERMARK FOR event_time AS event_time - INTERVAL '0.001' SECOND"


def windows_of(device: str, temperature: str) -> str:
    """The query of J2; its names are those of the columns."""
    return f"""
        INSERT INTO results SELECT device, started, average, score_of(average) FROM (
            SELECT {device} AS device, 1000 * UNIX_TIMESTAMP(CAST(window_start AS STRING)) AS started,
                AVG({temperature}) AS average
            FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(event_time), INTERVAL '1' SECOND))
            GROUP BY {device}, window_start, window_end)
    """


def windows(job: Job) -> None:
    """J2 and J4."""
    tables = environment(job)
    if job.name == "J4":
        columns = "device ROW<id STRING>, `timestamp` BIGINT, readings ROW<temperature DOUBLE, humidity DOUBLE>"
        source(tables, job, f"{columns}, {EVENT_TIME}", "json")
        query = windows_of("`device`.id", "readings.temperature")
    else:
        source(tables, job, f"device STRING, `timestamp` BIGINT, temperature DOUBLE, {EVENT_TIME}", "csv")
        query = windows_of("device", "temperature")
    results(tables, job, RESULTS)
    tables.execute_sql(query).wait()


def latency(job: Job) -> None:
    """The port of a server of lines comes in the environment."""
    tables = environment(job)
    tables.execute_sql(f"CREATE TABLE results ({RESULTS}) WITH ('connector' = 'print')")
    tables.execute_sql(windows_of("device", "temperature")).wait()


def main() -> None:
    """Runs what it is told."""
    job = told()
    if job.name in ("J1", "J3"):
        stateless(job)
    elif job.name == "latency":
        latency(job)
    else:
        windows(job)


if __name__ == "__main__":
    main()
