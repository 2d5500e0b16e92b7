"""The committed bench/README.md says what the committed results say; failures and losses are shown, not left out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peers import cases, histogram, report, results


def result(job: str, engine: str, rate: float, *, failed: str = "", variant: str | None = None) -> dict[str, Any]:
    described = {"name": job, "engine": engine, "engine_version": None, "variant": variant, "workers": 1}
    whole = results.new(described, {"loop": "closed", "quick": False}, [0, 1])
    measurement = results.new_measurement("steady")
    if failed:
        results.invalidate(whole, failed)
    else:
        measurement["runs"] = [
            {
                "achieved_rate": rate,
                "rate_with_startup": rate / 2,
                "startup_s": 0.5,
                "wall_s": 2.0,
                "cpu_seconds": {"all": 3.0},
                "memory_bytes": {"all": 5e7},
            }
        ]
        results.summarise(measurement)
    whole["measurements"].append(measurement)
    return whole


def section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *written: dict[str, Any]) -> str:
    monkeypatch.setattr(report, "BENCH", tmp_path)
    folder = tmp_path / "results" / "2026-01-01-abcdefg" / "peers"
    for number, each in enumerate(written):
        results.save(folder / f"{number}.json", each)
    return report.peers_section(folder)


def test_the_committed_report_is_fresh() -> None:
    stale = [path for path, text in report.files().items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    assert not stale, "run: scripts/bench report"


def test_ratios_are_printed_beside_their_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = section(
        tmp_path, monkeypatch, result("J2", "ringmill", 5e6), result("J2", "bytewax", 4e4), result("J2", "pathway", 2e5)
    )
    assert "125x (target 100x)" in text
    assert "25x (target 50x, missed)" in text


def test_a_loss_is_said_and_a_failure_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faster, broken = result("J1", "zeromq", 9e7), result("J1", "pathway", 0, failed="RunError: wrong output")
    text = section(tmp_path, monkeypatch, result("J1", "ringmill", 6e7), faster, broken)
    assert "**(we lose)**" in text
    assert "failed: RunError: wrong output" in text


def test_parts_that_were_measured_elsewhere_say_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = result("J1", "ringmill", 6e7), result("J2", "ringmill", 5e6)
    one = section(tmp_path, monkeypatch, here, there).splitlines()[0]
    assert one.count("CPython") == 1
    assert "J1" not in one
    there["machine"]["cpu"] = "Another"
    several = section(tmp_path, monkeypatch, here, there).splitlines()[0]
    assert several.startswith("J1: ")
    assert ". J2: " in several
    assert several.count("CPython") == 2


def ring(engine: str, *rates: float) -> dict[str, Any]:
    described = {"name": "ring", "engine": engine, "engine_version": None, "variant": "spin", "language": "rust"}
    whole = results.new(described, {"loop": "closed", "quick": False}, [0, 1])
    measurement = results.new_measurement("throughput-64")
    measurement["runs"] = [{"achieved_rate": rate} for rate in rates]
    results.summarise(measurement)
    whole["measurements"].append(measurement)
    return whole


def test_the_ring_s_ratio_is_that_of_runs_made_beside_one_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The machine was four times slower in our last run, and in their last two.
    text = section(tmp_path, monkeypatch, ring("ringmill", 8e6, 8e6, 2e6), ring("pipe", 4e6, 1e6, 1e6))
    assert "1.00 M (2x)" in text


def test_one_size_that_failed_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = ring("pipe", 1e6)
    other = results.new_measurement("throughput-1024")
    results.invalidate(other, "RunError: out of memory")
    broken["measurements"].append(other)
    text = section(tmp_path, monkeypatch, ring("ringmill", 2e6), broken)
    assert "1.00 M (2x) | failed |" in text


def test_a_percentile_needs_ten_samples_above_it() -> None:
    figures = histogram.latency(histogram.of(np.arange(1, 1001)))
    assert figures["p99"] is not None
    assert figures["p99_9"] is None


def test_histograms_survive_the_file_and_add_up() -> None:
    text = histogram.latency(histogram.of(np.arange(1, 101)), with_samples=True)["histogram"]
    both = histogram.merged([histogram.decoded(json.loads(json.dumps(text)))] * 2)
    assert both.get_total_count() == 200


def test_cases_have_names_of_their_own_and_every_engine_stands_beside_ours() -> None:
    everything = list(cases.cases())
    names = [case.name for case in everything]
    assert len(set(names)) == len(names)
    for case in everything:
        assert any(other.engine == "ringmill" and other.job == case.job for other in everything)
        assert case.rows_quick <= case.rows


def test_a_reason_names_files_and_no_folders_of_the_machine_that_measured() -> None:
    result: dict[str, Any] = {"invalid_because": []}
    results.invalidate(result, 'File "/home/somebody/ringmill/bench/peers/ring.py", line 3: 1/2 of ./output, a/b, /etc/hosts')
    assert result["invalid_because"] == ['File "ring.py", line 3: 1/2 of ./output, a/b, hosts']


def test_what_brokers_take_stands_beside_what_their_clients_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = result("kafka", "ringmill", 6e5), result("kafka", "aiokafka", 5e4)
    for each in (ours, theirs):
        measurement = each["measurements"][0]
        measurement["startups_cpu_s"] = [0.5]
        measurement["runs"][0] |= {"rows_in": 500_000, "cpu_seconds": {"all": 2.0, "brokers": 0.25}}
    text = section(tmp_path, monkeypatch, ours, theirs)
    assert "| CPU s per M rows | of the brokers |" in text
    assert "| 3.00 | 0.50 | 12x (target 10x) |" in text
    assert "| 3.00 | 0.50 |  |" in text
