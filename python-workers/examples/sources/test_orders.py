"""The source alone: what a user's own test looks like."""

import sqlite3
from pathlib import Path

from orders import Orders

import ringmill as rm
from ringmill import testing

COLUMNS = {"id": rm.int64, "customer": rm.utf8, "amount": rm.float64}


def make_orders(path: Path, first: int, count: int) -> None:
    """Adds orders to the table; there is one of 100.0 in every ten."""
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, customer TEXT, amount REAL)")
        rows = ((number, f"c-{number % 7}", float(number % 10 + 1) * 10) for number in range(first, first + count))
        database.executemany("INSERT INTO orders VALUES (?, ?, ?)", rows)
    database.close()


def test_each_row_comes_once_wherever_it_is_interrupted(tmp_path: Path) -> None:
    make_orders(tmp_path / "orders.db", 1, 500)
    testing.assert_seekable(Orders, COLUMNS, options={"path": str(tmp_path / "orders.db")}, rows_max=64)
