"""The ticks job answers every trade once, in the order of its symbol, with what the symbol's last trade makes of it."""

import csv
import math

from jobs import Example, Start

ROWS = 30_000
COLUMNS = ["symbol", "price", "size", "timestamp", "turnover", "move"]


def test_every_trade_is_answered_in_the_order_of_its_symbol(example: Example, run: Start) -> None:
    folder = example("ticks")
    job = run(folder, f"sources.trades.rows={ROWS}")
    with (folder / "signals.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))

    assert list(rows[0]) == COLUMNS
    assert len(rows) == ROWS
    assert job.report["rows"]["out"] == {"out": ROWS}
    assert job.report["latency_ns"]["end_to_end"]["count"] == ROWS
    last: dict[str, tuple[str, float]] = {}
    for row in rows:
        price, size = float(row["price"]), int(row["size"])
        before_time, before_price = last.get(row["symbol"], ("", math.nan))
        move = price / before_price - 1.0
        assert row["timestamp"] > before_time
        assert float(row["turnover"]) == price * size
        assert float(row["move"]) == move or (math.isnan(move) and math.isnan(float(row["move"])))
        last[row["symbol"]] = (row["timestamp"], price)
    assert len(last) == 500
