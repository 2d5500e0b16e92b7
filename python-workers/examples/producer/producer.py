"""Sends a log of readings, from where the pipeline goes on: a row's position is its number in the log."""

from pathlib import Path

import numpy as np

import ringmill as rm

LOG = np.load(Path(__file__).with_name("readings.npy"))

if __name__ == "__main__":
    with rm.connect("gateway") as gateway:
        for first in range(gateway.position or 0, len(LOG), 1000):
            rows = LOG[first : first + 1000]
            gateway.send({"sensor": rows["sensor"], "celsius": rows["celsius"]})
        gateway.flush(durable=True)
