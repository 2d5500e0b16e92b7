"""The rows of an SQLite table, in the order of their numbers."""

import sqlite3

import ringmill as rm


class Orders(rm.Source):
    """Reads a table that only grows; a position is the number of the last row."""

    def __init__(self, path: str, follow: bool = False) -> None:
        self.database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        self.follow, self.last = follow, 0

    def poll(self, partition: str, rows_max: int) -> rm.Rows:
        query = "SELECT id, customer, amount FROM orders WHERE id > ? ORDER BY id LIMIT ?"
        rows = self.database.execute(query, (self.last, rows_max)).fetchall()
        if not rows:
            return None if self.follow else rm.End
        self.last = rows[-1][0]
        return dict(zip(("id", "customer", "amount"), zip(*rows, strict=True), strict=True))

    def position(self, partition: str) -> int:
        return self.last

    def seek(self, partition: str, position: int) -> None:
        self.last = position
