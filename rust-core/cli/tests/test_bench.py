"""`ringmill bench` writes what the HdrHistogram tools of another language read, and a report that a browser shows."""

import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader

PIPELINE = """
[pipeline]
shards = 1
[sources.sensors]
kind = "generator"
[sinks.out]
kind = "null"
inputs = ["sensors"]
"""

LOWEST_NS, HIGHEST_NS, DIGITS = 1, 3_600_000_000_000, 3


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a small bench with a sweep. Its figures may be INVALID on a busy machine; the files are the same."""
    folder = tmp_path_factory.mktemp("bench")
    command = os.environ.get("RINGMILL_BIN") or shutil.which("ringmill")
    assert command, "there is no ringmill command: run scripts/setup, or set RINGMILL_BIN"
    (folder / "small.toml").write_text(PIPELINE, encoding="utf-8")
    arguments = ["bench", "small.toml", "--quick", "--rate", "2000", "--warmup", "100ms", "--duration", "400ms"]
    arguments += ["--sweep", "--tolerance", "95%", "--variant", "<b>a name & more</b>", "--output", "results"]
    done = subprocess.run([command, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 3), done.stderr
    return folder / "results"


@pytest.fixture(scope="module")
def measurement(results: Path) -> dict[str, Any]:
    """The one measurement."""
    result = json.loads((results / "result.json").read_text(encoding="utf-8"))
    assert result["schema"] == "ringmill-bench/1"
    (only,) = result["measurements"]
    return dict(only)


def test_another_language_reads_the_logs_and_finds_the_counts_of_the_result(results: Path, measurement: dict[str, Any]) -> None:
    for number, run in enumerate(measurement["runs"], start=1):
        reader = HistogramLogReader(
            str(results / measurement["id"] / f"run-{number}.hlog"), HdrHistogram(LOWEST_NS, HIGHEST_NS, DIGITS)
        )
        rows = 0
        while (interval := reader.get_next_interval_histogram()) is not None:
            if interval.get_tag() == "end_to_end":
                rows += interval.get_total_count()
        assert rows == run["latency_ns"]["end_to_end"]["count"]
        assert 0 < rows <= 800, "a batch whose oldest row was due in the warm-up is not measured"


def test_another_language_reads_the_histograms_in_the_result_and_finds_its_percentiles(
    measurement: dict[str, Any],
) -> None:
    for figures in [*measurement["latency_ns"].values(), measurement["hiccup_ns"]]:
        histogram = HdrHistogram.decode(figures["histogram"])
        assert histogram.get_total_count() == figures["count"]
        for name, percentile in [("p50", 50), ("p90", 90), ("p99", 99)]:
            if figures[name] is not None:
                # Implementations differ in how they round to a whole observation.
                one = 100 / figures["count"]
                below = histogram.get_value_at_percentile(max(0, percentile - one))
                above = histogram.get_value_at_percentile(min(100, percentile + one))
                assert 0.998 * below - 1 <= figures[name] <= 1.002 * above + 1


def test_merged_percentiles_count_every_run(measurement: dict[str, Any]) -> None:
    merged = measurement["latency_ns"]["end_to_end"]
    runs = [run["latency_ns"]["end_to_end"] for run in measurement["runs"]]
    assert merged["count"] == sum(run["count"] for run in runs)
    assert merged["max"] == max(run["max"] for run in runs)
    assert merged["min"] == min(run["min"] for run in runs)


def test_a_percentile_distribution_ends_with_all_rows(results: Path, measurement: dict[str, Any]) -> None:
    text = (results / measurement["id"] / "end_to_end.hgrm").read_text(encoding="utf-8")
    lines = [line.split() for line in text.splitlines() if re.match(r"\s*\d", line)]
    count = measurement["latency_ns"]["end_to_end"]["count"]
    assert [float(lines[-1][1]), int(lines[-1][2])] == [1.0, count]
    values = [float(line[0]) for line in lines]
    assert values == sorted(values)
    assert f"Total count    = {count:12}" in text


class Page(HTMLParser):
    """What a page consists of."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes the tag, and what it wants from elsewhere."""
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        """Notes the text."""
        self.text += data


def test_the_report_is_one_file_that_wants_nothing_from_elsewhere(results: Path, measurement: dict[str, Any]) -> None:
    page = Page()
    page.feed((results / "report.html").read_text(encoding="utf-8"))
    assert page.links == []
    assert "script" not in page.tags
    assert "b" in page.tags
    assert page.tags.count("svg") == 4, "percentiles, throughput, time, stages"
    assert "<b>a name & more</b>" in page.text
    assert ("These figures do not count" in page.text) == (measurement["status"] == "invalid")


def test_a_browser_shows_the_report(results: Path, tmp_path: Path) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("there is no Chromium here (Debian/Ubuntu: apt-get install chromium)")
    arguments = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--dump-dom"]
    done = subprocess.run([browser, *arguments, (results / "report.html").as_uri()], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    page = Page()
    page.feed(done.stdout)
    assert page.tags.count("svg") == 4
    assert "End-to-end latency by percentile" in page.text
    assert "Machine and build" in page.text
