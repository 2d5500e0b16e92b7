"""Lines of a TCP server, read with asyncio."""

import asyncio

import ringmill as rm


class Ticks(rm.Source):
    """Reads ``SYMBOL PRICE`` from each line. The server sends each once, so there is no ``seek()``."""

    def __init__(self, host: str, port: int) -> None:
        self.loop = asyncio.new_event_loop()
        # The writer is never used, and kept: a connection is closed when its writer is forgotten.
        self.reader, self.writer = self.loop.run_until_complete(asyncio.open_connection(host, port))

    def poll(self, partition: str, rows_max: int) -> rm.Rows:
        try:
            line = self.loop.run_until_complete(asyncio.wait_for(self.reader.readline(), timeout=0.1))
        except TimeoutError:
            return None
        if not line:
            return rm.End
        symbol, price = line.decode().split()
        return {"symbol": [symbol], "price": [float(price)]}

    def close(self) -> None:
        self.writer.close()
        self.loop.run_until_complete(self.writer.wait_closed())
        self.loop.close()
