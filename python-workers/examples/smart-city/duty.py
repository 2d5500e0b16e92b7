"""Who is on duty: an HTTP endpoint that takes alerts, each request once."""

import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Alert:
    """One that was taken."""

    row: dict[str, Any]
    at: float
    """Seconds since 1970."""


@dataclass
class Duty:
    """What was taken, by requests that each have an Idempotency-Key."""

    alerts: list[Alert] = field(default_factory=list)
    repeated: int = 0
    """Requests that had been taken before: answered again, and nothing else."""
    _keys: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, key: str, body: bytes) -> None:
        """A request: one alert a line."""
        at = time.time()
        rows = [json.loads(line) for line in body.splitlines()]
        with self._lock:
            if key in self._keys:
                self.repeated += 1
                return
            self._keys.add(key)
            self.alerts += [Alert(row, at) for row in rows]


def server(duty: Duty) -> ThreadingHTTPServer:
    """A server on a free port of this machine, which hands over what comes; `serve_forever` runs it."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            duty.take(self.headers["Idempotency-Key"], self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Not a word for each request."""

    return ThreadingHTTPServer(("127.0.0.1", 0), Handler)
