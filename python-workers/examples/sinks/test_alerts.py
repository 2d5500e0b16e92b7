"""The sink alone, what a user's own test looks like; and the job with the real command."""

import sqlite3
from pathlib import Path

import pytest
from alerts import Alerts
from jobs import Example, Start

import ringmill as rm
from ringmill import testing

ALERTS = [(f"d{number}", 20.0 + number) for number in range(100)]
ROWS = {"device_id": [device for device, _ in ALERTS], "temperature": [temperature for _, temperature in ALERTS]}


def alerts_in(path: Path) -> list[tuple[str, float]]:
    with sqlite3.connect(path) as database:
        rows = database.execute("SELECT device, temperature FROM alerts ORDER BY id, row").fetchall()
    database.close()
    return rows


def test_rows_that_come_again_in_other_batches_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "alerts.db"
    for rows_max in (100, 7, 1):
        testing.deliver(Alerts, ROWS, options={"path": str(path)}, rows_max=rows_max)
        assert alerts_in(path) == ALERTS


def test_a_table_that_is_locked_is_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "alerts.db"
    testing.deliver(Alerts, ROWS, options={"path": str(path)})
    with sqlite3.connect(path) as database:
        database.execute("BEGIN EXCLUSIVE")
        with pytest.raises(rm.Retry, match="locked"):
            testing.deliver(LockedLater, ROWS, options={"path": str(path)})
    database.close()


class LockedLater(Alerts):
    """The same with the table made already."""

    def setup(self) -> None:
        self.database = sqlite3.connect(self.path, timeout=0)


def test_each_alert_is_there_once_after_two_runs(example: Example, run: Start) -> None:
    folder = example("sinks")
    alerts = run(folder).report["rows"]["out"]["alerts"]
    assert len(alerts_in(folder / "alerts.db")) == alerts > 0
    run(folder)
    assert len(alerts_in(folder / "alerts.db")) == alerts
