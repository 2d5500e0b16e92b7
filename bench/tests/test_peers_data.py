"""What all engines read is made from a seed, and a shorter file is the beginning of a longer one."""

import json
from pathlib import Path

import numpy as np
import pytest
from peers import data


def test_a_shorter_file_is_the_beginning_of_a_longer_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "CHUNK_ROWS", 100)
    for name, rows in (("long", 250), ("short", 130)):
        data.write_csv(tmp_path / name, data.J2, rows)
    long, short = (tmp_path / "long").read_text(), (tmp_path / "short").read_text()
    assert long.startswith(short)
    assert (len(long.splitlines()), len(short.splitlines())) == (251, 131)


def test_the_same_rows_are_made_again() -> None:
    first, second = next(data.readings(data.J4, 1000)), next(data.readings(data.J4, 1000))
    for name in ("device", "timestamp", "temperature", "humidity"):
        assert np.array_equal(getattr(first, name), getattr(second, name))


def test_time_never_goes_back_and_a_second_has_its_rows() -> None:
    rows = next(data.readings(data.J2, 25_000))
    assert (np.diff(rows.timestamp) >= 0).all()
    assert np.bincount((rows.timestamp - data.START_MS) // 1000).tolist() == [10_000, 10_000, 5_000]


def test_events_are_json_of_about_1200_bytes_with_the_four_fields(tmp_path: Path) -> None:
    data.write_ndjson(tmp_path / "events", data.J4, 200)
    rows = next(data.readings(data.J4, 200))
    lines = (tmp_path / "events").read_text().splitlines()
    assert 1150 <= np.mean([len(line) for line in lines]) <= 1250
    for index, line in enumerate(lines):
        event = json.loads(line)
        assert event["device"]["id"] == data.device_name(int(rows.device[index]))
        assert event["timestamp"] == rows.timestamp[index]
        assert event["readings"]["temperature"] == rows.temperature[index]
        assert event["readings"]["humidity"] == rows.humidity[index]


def test_an_unfinished_file_is_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        path.write_text("half")
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        data.ensure(tmp_path, "file", fail)
    assert data.ensure(tmp_path, "file", lambda path: path.write_text("whole")).read_text() == "whole"
