"""Latencies as the results hold them: HDR histograms, and no percentile that fewer than ten samples lie above."""

import base64
from typing import Any

import numpy as np
from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]

from .data import Integers

PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99_9": 99.9, "p99_99": 99.99, "p99_999": 99.999}
HIGHEST_NS = 60_000_000_000
SAMPLES_ABOVE = 10


def of(nanoseconds: Integers) -> Any:
    """A histogram of three significant digits."""
    histogram = HdrHistogram(1, HIGHEST_NS, 3)
    values, counts = np.unique(np.clip(nanoseconds, 1, HIGHEST_NS), return_counts=True)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        histogram.record_value(value, count)
    return histogram


def decoded(text: str) -> Any:
    """From a result's text."""
    return HdrHistogram.decode(text)


def merged(histograms: list[Any]) -> Any:
    """All samples in one."""
    whole = HdrHistogram(1, HIGHEST_NS, 3)
    for histogram in histograms:
        whole.add(histogram)
    return whole


def latency(histogram: Any, *, with_samples: bool = False) -> dict[str, Any]:
    """As the schema wants it."""
    count = int(histogram.get_total_count())
    figures: dict[str, Any] = {"count": count, "min": None, "mean": None, "max": None}
    if count:
        figures |= {
            "min": int(histogram.get_min_value()),
            "mean": float(histogram.get_mean_value()),
            "max": int(histogram.get_max_value()),
        }
    for name, percentile in PERCENTILES.items():
        known = count * (1 - percentile / 100) >= SAMPLES_ABOVE - 1e-9
        figures[name] = int(histogram.get_value_at_percentile(percentile)) if known else None
    if with_samples:
        text = histogram.encode()
        figures["histogram"] = text.decode() if isinstance(text, bytes) else base64.b64encode(text).decode()
    return figures
