"""Both jobs with the real command: rows of a table over two runs, and lines of a server."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Self

from jobs import Example, Start
from test_orders import make_orders
from ticks import Ticks

import ringmill as rm


def test_a_second_run_reads_what_was_added(example: Example, run: Start) -> None:
    folder = example("sources")
    make_orders(folder / "orders.db", 1, 5_000)
    assert run(folder).report["rows"]["in"] == 5_000
    make_orders(folder / "orders.db", 5_001, 1_000)
    job = run(folder)
    assert job.report["rows"]["in"] == 6_000
    large = job.rows("large.ndjson")
    assert [row["id"] for row in large] == list(range(9, 6_000, 10))
    assert {row["amount"] for row in large} == {100.0}


def test_lines_of_a_server_become_rows(example: Example, run: Start) -> None:
    folder = example("sources")
    (folder / "pipeline.toml").write_text((folder / "ticks.toml").read_text(encoding="utf-8"), encoding="utf-8")
    with Server([f"SYM{number % 3} {number}.5" for number in range(300)]) as server:
        server.go_on()
        rows = run(folder, f"sources.ticks.options.port={server.port}").rows("ticks.ndjson")
    assert [row["price"] for row in rows] == [number + 0.5 for number in range(300)]
    assert {row["symbol"] for row in rows} == {"SYM0", "SYM1", "SYM2"}


def test_lines_that_come_long_after_the_connection_become_rows() -> None:
    with Server(["SYM 1.5", "SYM 2.5"]) as server:
        ticks = Ticks("127.0.0.1", server.port)
        assert ticks.poll("0", 10) is None, "nothing was sent yet"
        server.go_on()
        prices = [price for rows in polls(ticks) for price in rows["price"]]
        ticks.close()
    assert prices == [1.5, 2.5]


def polls(source: rm.Source) -> Iterator[dict[str, list[float]]]:
    """What it has until it ends."""
    while (rows := source.poll("0", 10)) is not rm.End:
        if rows is not None:
            yield rows


class Server:
    """Sends lines to whoever connects, once it is told to go on."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines
        self.loop = asyncio.new_event_loop()
        self.is_going_on = asyncio.Event()
        self.thread = threading.Thread(target=self.loop.run_forever)

    async def _serve(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self.is_going_on.wait()
        writer.writelines(f"{line}\n".encode() for line in self.lines)
        await writer.drain()
        writer.close()

    def go_on(self) -> None:
        self.loop.call_soon_threadsafe(self.is_going_on.set)

    def __enter__(self) -> Self:
        self.thread.start()
        started = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._serve, "127.0.0.1", 0), self.loop)
        self.server = started.result()
        self.port: int = self.server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.server.close)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
