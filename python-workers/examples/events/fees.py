"""The fee of each trade: a share of what was paid, and never less than a cent."""

import numpy as np
import ringmill as rm

SHARE = 0.001
LEAST = 0.01


@rm.udf(outputs={"fee": rm.float64})
def charge(price, quantity):
    return np.maximum(price * quantity * SHARE, LEAST)
