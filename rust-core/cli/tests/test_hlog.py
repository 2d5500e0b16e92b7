"""`ringmill run --hlog FILE` writes what the HdrHistogram tools of another language read: the same counts as the report."""

import json
import os
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader

PIPELINE = """
[pipeline]
shards = 2
[sources.sensors]
kind = "generator"
rows = 100_000
rate = 50_000
[sinks.out]
kind = "null"
inputs = ["sensors"]
"""

LOWEST_NS, HIGHEST_NS, DIGITS = 1, 3_600_000_000_000, 3


def test_another_language_reads_the_log_and_finds_the_counts_of_the_report(tmp_path: Path) -> None:
    command = os.environ.get("RINGMILL_BIN") or shutil.which("ringmill")
    assert command, "there is no ringmill command: run scripts/setup, or set RINGMILL_BIN"
    (tmp_path / "pipeline.toml").write_text(PIPELINE)
    arguments = ["run", "pipeline.toml", "--quiet", "--hlog", "run.hlog", "--report", "report.json"]
    subprocess.run([command, *arguments], cwd=tmp_path, check=True)
    report = json.loads((tmp_path / "report.json").read_text())

    totals = defaultdict(lambda: HdrHistogram(LOWEST_NS, HIGHEST_NS, DIGITS))
    intervals = 0
    reader = HistogramLogReader(str(tmp_path / "run.hlog"), HdrHistogram(LOWEST_NS, HIGHEST_NS, DIGITS))
    while (interval := reader.get_next_interval_histogram()) is not None:
        intervals += 1
        totals[interval.get_tag()].add(interval)
        assert 0 < interval.get_end_time_stamp() - interval.get_start_time_stamp() < 60_000
    reader.close()

    assert intervals > len(totals), "a run of two seconds has more than one interval for each stage"
    assert set(totals) == {"end_to_end", "parse", "sink"}
    for stage, total in totals.items():
        expected = report["latency_ns"][stage]
        assert total.get_total_count() == expected["count"]
        for figure, percentile in (("p50", 50), ("p99", 99), ("p99_9", 99.9)):
            # Both are the top of the same bucket of 3 significant digits.
            assert abs(total.get_value_at_percentile(percentile) - expected[figure]) <= expected[figure] / 1000 + 1
        assert abs(total.get_max_value() - expected["max"]) <= expected["max"] / 1000 + 1
