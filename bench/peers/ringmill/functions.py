"""The functions of Ringmill's own runs of the jobs, each as a user would write it."""

import time

import numpy as np

import ringmill as rm

HEAVY_NS = 1_000_000


@rm.udf(outputs={"score": rm.float64})
def zscore(temperature: np.ndarray) -> np.ndarray:
    """J1."""
    scores: np.ndarray = (temperature - temperature.mean()) / temperature.std()
    return scores


@rm.udf(outputs={"score": rm.float64})
def heavy(temperature: np.ndarray) -> np.ndarray:
    """J3: the same and 1 ms of processor time."""
    until = time.thread_time_ns() + HEAVY_NS
    scores: np.ndarray = (temperature - temperature.mean()) / temperature.std()
    while time.thread_time_ns() < until:
        pass
    return scores


@rm.udf(outputs={"score": rm.float64, "batch_rows": rm.int64})
def checked_zscore(temperature: np.ndarray) -> dict[str, np.ndarray]:
    """J1 with the length of the batch, without which nobody can tell whether a score is right."""
    scores = (temperature - temperature.mean()) / (temperature.std() or 1.0)
    return {"score": scores, "batch_rows": np.full(len(temperature), len(temperature))}


@rm.udf(outputs={"score": rm.float64})
def score(average: np.ndarray) -> np.ndarray:
    """J2 and J4."""
    return (average - 20.0) / 2.5
