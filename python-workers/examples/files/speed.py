"""How fast each trip was."""

import numpy as np
import numpy.typing as npt

import ringmill as rm

KILOMETERS_PER_HOUR = 3.6


@rm.udf(outputs={"speed": rm.float64})
def speed(meters: npt.NDArray[np.float64], seconds: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """In km/h; a trip of no time has the speed 0."""
    return np.divide(meters * KILOMETERS_PER_HOUR, seconds, out=np.zeros_like(meters), where=seconds > 0)
