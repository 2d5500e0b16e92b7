"""A sink that writes each row once, however often it is given it: the row's identity is the table's key."""

import sqlite3
from itertools import repeat

import ringmill as rm


class Alerts(rm.Sink):
    def __init__(self, path: str) -> None:
        self.path = path

    def setup(self) -> None:
        self.database = sqlite3.connect(self.path, timeout=0)
        self.database.execute(
            "CREATE TABLE IF NOT EXISTS alerts"
            " (id TEXT, row INTEGER, device TEXT, temperature REAL, PRIMARY KEY (id, row)) WITHOUT ROWID"
        )

    def write(self, batch: rm.Batch) -> None:
        rows = zip(repeat(batch.id), batch.row_numbers.tolist(), batch["device_id"], batch["temperature"].tolist(), strict=False)
        try:
            with self.database:
                self.database.executemany("INSERT OR IGNORE INTO alerts VALUES (?, ?, ?, ?)", rows)
        except sqlite3.OperationalError as error:
            # Somebody else holds the lock, say: the rows come again until it works.
            raise rm.Retry(f"{self.path}: {error}") from error

    def close(self) -> None:
        self.database.close()
