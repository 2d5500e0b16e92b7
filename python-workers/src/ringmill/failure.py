"""What the core is told of an exception."""

from __future__ import annotations

import json
import traceback

__all__ = ["failure_payload", "one_line"]


def failure_payload(error: BaseException, bytes_max: int, *, message: str = "", **more: object) -> bytes:
    """What the core is told of an exception: JSON with ``error`` (or ``message``) and ``traceback``, within ``bytes_max``."""
    message, trace = _encodable(message or one_line(error)), _encodable("".join(traceback.format_exception(error)))
    while True:
        payload = json.dumps({"error": message, "traceback": trace, **more}).encode()
        if len(payload) <= bytes_max:
            return payload
        # Escaping makes the JSON longer than its text by an unknown factor, so cut until it fits: first the traceback,
        # whose end matters most, then the message, whose beginning does.
        if trace:
            trace = _ellipsis(trace[-len(trace) * 2 // 3 :], at_start=True)
        elif message:
            message = _ellipsis(message[: len(message) * 2 // 3], at_start=False)
        else:
            return b""


def one_line(error: BaseException) -> str:
    """The exception as the last lines of a traceback show it, without the module of our own exceptions."""
    text = "".join(traceback.format_exception_only(error)).strip()
    module = type(error).__module__
    return text.removeprefix(f"{module}.") if module.startswith("ringmill.") else text


def _encodable(text: str) -> str:
    """Names of files that are not UTF-8 have surrogates, which no JSON can carry to the core."""
    return text.encode("utf-8", "backslashreplace").decode()


def _ellipsis(text: str, *, at_start: bool) -> str:
    if len(text) < 16:
        return ""
    return "..." + text[3:] if at_start else text[:-3] + "..."
