"""The functions that the benchmarks run; each as a user would write it."""

import numpy as np

import ringmill as rm


@rm.udf(outputs={"score": rm.float64})
def zscore(temperature: np.ndarray) -> np.ndarray:
    """The naive z-score over the batch."""
    return (temperature - temperature.mean()) / temperature.std()


@rm.udf(outputs={"score": rm.float64})
def zscore_in_place(temperature: np.ndarray, out: np.ndarray) -> None:
    """The same with NumPy's own functions called without their Python wrappers, written into the ring."""
    count = len(temperature)
    mean = np.add.reduce(temperature) / count
    np.subtract(temperature, mean, out=out)
    std = (np.dot(out, out) / count) ** 0.5
    np.multiply(out, 1.0 / std, out=out)


@rm.udf(outputs={"score": rm.float64})
def nothing(temperature: np.ndarray) -> np.ndarray:
    """Gives back what it got."""
    return temperature


@rm.udf(outputs={"score": rm.float64})
def anomaly_score(temperature: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """How far a window's mean lies from the device's history."""
    return np.where(std > 0, np.abs(temperature - mean) / std, 0.0)
