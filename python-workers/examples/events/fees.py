"""The fee of each trade: a share of what was paid, and never less than a cent."""

import numpy as np
import numpy.typing as npt

import ringmill as rm

SHARE = 0.001
LEAST = 0.01

Floats = npt.NDArray[np.float64]


@rm.udf(outputs={"fee": rm.float64}, version=1)
def charge(price: Floats, quantity: npt.NDArray[np.int32]) -> Floats:
    """The fee in the currency of the price."""
    return np.maximum(price * quantity * SHARE, LEAST)
