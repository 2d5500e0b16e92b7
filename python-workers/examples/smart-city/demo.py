"""The whole case: sensors publish Avro to Kafka, Ringmill scores their windows, alerts come to an HTTP endpoint.

    python demo.py [--sensors N] [--windows N] [--window SECONDS] [--reports N] [--chaos] [--folder FOLDER]

Brokers, sensors, the endpoint and a reader of the results are started here, `ringmill run pipeline.toml` as a user would
start it. In the end every result and every alert is held against what the sensors did report. Exit code 1 if anything is
missing, wrong or too many.
"""

import argparse
import json
import multiprocessing
import os
import socket
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from brokers import Brokers
from duty import Alert, Duty, server
from mill import Mill
from results import TOPIC as RESULTS
from results import Results
from sensors import TOPIC as READINGS
from sensors import City, name, publish

HERE = Path(__file__).parent
PARTITIONS = {READINGS: 12, RESULTS: 48}
"""A partition of the demo's brokers keeps 5 MiB, so the topic of all results needs many."""
PATIENCE = 60.0
"""Seconds that the last results may take after their window."""


def command(folder: Path, brokers: str, alerts: str, serve: str, city: City) -> list[str]:
    """The run, with what differs from pipeline.toml."""
    addresses = json.dumps(brokers.split(","))
    values = {
        "sources.readings.brokers": addresses,
        "sinks.aggregates.brokers": addresses,
        "sinks.alerts.url": json.dumps(alerts),
        "serve.listen": json.dumps(serve),
        "steps.windows.window.tumbling": json.dumps(f"{1000 * city.window:.0f}ms"),
        "checkpoint.path": json.dumps(str(folder / "state")),
    }
    run = [os.environ.get("RINGMILL_BIN", "ringmill"), "run", str(HERE / "pipeline.toml"), "--quiet"]
    return run + [word for key, value in values.items() for word in ("--set", f"{key}={value}")]


@dataclass(frozen=True)
class Verdict:
    """What came of it."""

    results: Results
    duty: Duty
    city: City
    start: float

    def alerts(self) -> tuple[int, int, int]:
        """How many anomalies there were, and how many alerts are missing and too many."""
        expected = Counter(
            (name(int(sensor)), window)
            for window in range(self.results.windows)
            for sensor in np.flatnonzero(self.city.is_unusual(window))
        )
        found = Counter((alert.row["device_id"], self._window(alert)) for alert in self.duty.alerts)
        return expected.total(), (expected - found).total(), (found - expected).total()

    def _window(self, alert: Alert) -> int:
        since = datetime.fromisoformat(alert.row["window_start"]).timestamp() - self.start
        return round(since / self.city.window)

    def delays(self) -> list[float]:
        """From the end of an alert's window to its arrival, in milliseconds, in order."""
        ends = ((alert.at, datetime.fromisoformat(alert.row["window_end"]).timestamp()) for alert in self.duty.alerts)
        return sorted(1000 * (at - end) for at, end in ends)

    @property
    def is_good(self) -> bool:
        """Whether nothing is missing, wrong or too many."""
        _, missing, extra = self.alerts()
        return missing == extra == self.results.missing == self.results.wrong == 0

    def __str__(self) -> str:
        anomalies, missing, extra = self.alerts()
        text = f"{self.results.verdict()}\nalerts:  {anomalies - missing:,} of {anomalies:,} anomalies, {extra:,} others, "
        text += f"{self.duty.repeated:,} came again"
        if delays := self.delays():
            middle, last = delays[len(delays) // 2], delays[-1]
            text += f"; after the end of their window p50 {middle:.0f} ms, max {last:.0f} ms"
        return text


def kept(serve: str, device: str, windows: int) -> list[dict[str, Any]]:
    """What the pipeline keeps of a device, once the checkpoint of so many windows is complete."""
    rows: list[dict[str, Any]] = []
    deadline = time.monotonic() + PATIENCE
    while len(rows) < windows and time.monotonic() < deadline:
        with urllib.request.urlopen(f"http://{serve}/v1/windows?key={device}", timeout=10) as answer:
            rows = json.load(answer)
        time.sleep(0.1)
    return rows


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def watch(mill: Mill, work: Future[Results], city: City, start: float, chaos: bool, duty: Duty) -> Results:
    """Says what happens, kills what is to be killed, and returns when all results are read or it is too late."""
    window = 0
    while not work.done():
        time.sleep(0.05)
        mill.check()
        if time.time() < start + (window + 0.6) * city.window:
            continue
        window += 1
        print(f"  {max(0.0, time.time() - start):5.0f} s: {len(duty.alerts):,} alerts", flush=True)
        if chaos and not work.done():
            if window % 2:
                mill.kill_a_worker()
                print("           killed the worker", flush=True)
            else:
                mill.kill_the_core()
                print("           killed the core, and started it again", flush=True)
    return work.result()


def run(city: City, windows: int, folder: Path, chaos: bool) -> bool:
    """Everything, once; whether it was as it has to be."""
    duty, serve = Duty(), f"127.0.0.1:{free_port()}"
    endpoint = server(duty)
    threading.Thread(target=endpoint.serve_forever, daemon=True).start()
    # Elsewhere sensors and readers have machines of their own; here they take what the pipeline leaves.
    processes = ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), os.nice, (10,))
    with Brokers(PARTITIONS) as brokers, processes:
        url = f"http://127.0.0.1:{endpoint.server_port}/alerts"
        mill = Mill(command(folder, brokers.addresses, url, serve, city), folder)
        start = (time.time() // city.window + 1) * city.window + city.window
        end = start + windows * city.window
        print(f"{city.sensors:,} sensors, {city.readings_per_second:,.0f} readings a second, for {windows} windows")
        results = Results(city, start, windows)
        reading = processes.submit(results.read, brokers.addresses, PARTITIONS[RESULTS], end + PATIENCE)
        # A little more than the windows: what comes after its end closes the last one.
        sending = processes.submit(publish, city, brokers.addresses, start, windows * city.reports + 0.5)
        try:
            verdict = Verdict(watch(mill, reading, city, start, chaos, duty), duty, city, start)
            late = sending.result()
            device = verdict.duty.alerts[0].row["device_id"] if duty.alerts else name(0)
            history = kept(serve, device, windows)
        finally:
            mill.end()
    print(f"sent:    {city.sensors * city.reports * windows:,} readings, the latest {1000 * late:.0f} ms late")
    print(verdict)
    print(f"kept:    {len(history)} windows of {device}, the newest {history[-1:]}")
    if chaos:
        print(f"killed:  {mill.workers_killed} workers, {mill.cores_killed} cores")
    return verdict.is_good and len(history) == windows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sensors", type=int, default=500_000)
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--window", type=float, default=10.0, help="its length in seconds")
    parser.add_argument("--reports", type=int, default=1, help="of each sensor in each window")
    parser.add_argument("--anomaly-rate", type=float, default=0.000_05, help="share of a window's sensors")
    parser.add_argument("--chaos", action="store_true", help="kill the worker and the core in turns, one in each window")
    parser.add_argument("--folder", type=Path, help="for state and log; made anew; default: one that is removed")
    arguments = parser.parse_args()
    city = City(arguments.sensors, arguments.window, arguments.reports, arguments.anomaly_rate)
    if arguments.folder:
        try:
            arguments.folder.mkdir()
        except OSError as error:
            parser.error(f"--folder has to be made: {error}")
    with tempfile.TemporaryDirectory(prefix="smart-city.") as temporary:
        is_good = run(city, arguments.windows, arguments.folder or Path(temporary), arguments.chaos)
    sys.exit(None if is_good else "FAILED: something is missing, wrong or too many")


if __name__ == "__main__":
    main()
