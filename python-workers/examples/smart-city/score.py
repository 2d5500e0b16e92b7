"""How unusual is a device's peak, measured against the windows it had before?"""

import numpy as np
import numpy.typing as npt

import ringmill as rm

NOISE_FLOOR = 1.0
"""Degrees. A few quiet windows must not make the next ordinary one look like an outlier."""

Floats = npt.NDArray[np.float64]


@rm.udf(outputs={"score": rm.float64}, version=1)
def anomaly_score(peak: Floats, mean: Floats, std: Floats) -> Floats:
    """Standard deviations between a window's peak and the device's usual peak; NaN before the third window."""
    return (peak - mean) / np.maximum(std, NOISE_FLOOR)
