"""The measurement of files runs, and its result becomes a table."""

import json
from pathlib import Path

import file_bench
import pytest
import run
from peers import report, results

CASES = {f"{what} {form}" for what in ("write", "read") for form in file_bench.FORMATS} | {"write parquet, rolled"}


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The result of a small run."""
    target = tmp_path / "results" / "2026-01-01-abcdefg" / "files.json"
    monkeypatch.setattr("sys.argv", ["file_bench.py", "--quick", "--no-postgres", "--to", str(target)])
    file_bench.main()
    return target


def test_every_format_is_written_and_read(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = json.loads(written.read_text(encoding="utf-8"))
    assert {measurement["id"] for measurement in result["measurements"]} == CASES
    assert all(measurement["throughput"]["median"] > 0 for measurement in result["measurements"])

    monkeypatch.setattr(report, "BENCH", tmp_path)
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    assert report.newest_files() is None, "a small run is not for the report"
    result["method"]["quick"] = False
    written.write_text(json.dumps(result), encoding="utf-8")
    assert report.newest_files() == written
    table = report.files_section(written)
    assert all(f"| {case} |" in table for case in CASES)
    assert "1.00 M" in table, "the target of Parquet"


def test_a_target_that_was_missed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "BENCH", tmp_path)
    job = {"name": "files", "engine": "ringmill", "engine_version": None, "variant": None, "workers": 0}
    result = results.new(job, {"loop": "closed", "quick": False}, [])
    for name, reached in (("write parquet", 9e5), ("write PostgreSQL", 3e5), ("read csv", 1e6)):
        result["measurements"].append(file_bench.measured(name, [{"achieved_rate": reached}]))
    path = tmp_path / "files.json"
    results.save(path, result)
    table = report.files_section(path)
    assert "| write parquet | 0.90 M | 0.90 M … 0.90 M | 1.00 M, missed |" in table
    assert "| write PostgreSQL | 0.30 M | 0.30 M … 0.30 M | 0.20 M |" in table
    assert "| read csv | 1.00 M | 1.00 M … 1.00 M |  |" in table


def test_a_run_that_lost_rows_is_no_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "run", lambda *_: {"rows": {"in": 6}, "seconds": 1.0, "rows_per_second": 6.0, "memory_bytes": {}})
    with pytest.raises(ValueError, match="6 rows instead of 7"):
        file_bench.measure(run.Case("write csv", "write_files"), tmp_path, 7)
