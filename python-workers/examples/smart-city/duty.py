"""Who is on duty: an HTTP endpoint that takes alerts, each of them once."""

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
    """What was taken: one alert for each device and window, as after a crash those since the newest checkpoint come again."""

    alerts: list[Alert] = field(default_factory=list)
    repeated: int = 0
    """Alerts that came again."""
    _known: set[tuple[str, str]] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, body: bytes) -> None:
        """A request: one alert a line."""
        at = time.time()
        with self._lock:
            for row in map(json.loads, body.splitlines()):
                which = row["device_id"], row["window_start"]
                if which in self._known:
                    self.repeated += 1
                else:
                    self._known.add(which)
                    self.alerts.append(Alert(row, at))


def server(duty: Duty) -> ThreadingHTTPServer:
    """A server on a free port of this machine, which hands over what comes; `serve_forever` runs it."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            duty.take(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Not a word for each request."""

    return ThreadingHTTPServer(("127.0.0.1", 0), Handler)
