"""What a trade means, one answer for each trade: its turnover, and its move since the symbol's last trade."""

import numpy as np
import numpy.typing as npt

import ringmill as rm

LETTERS = 4
"""Every symbol of the generator has four letters from A to Z."""
WEIGHTS = 26 ** np.arange(LETTERS - 1, -1, -1)

Floats = npt.NDArray[np.float64]


@rm.udf(outputs={"turnover": rm.float64, "move": rm.float64}, version=1)
class TradeSignal:
    """Remembers the last price of every symbol; no Python statement runs once per row."""

    def setup(self) -> None:
        self.last_price = np.full(26**LETTERS, np.nan)

    def __call__(self, symbol: rm.StringColumn, price: Floats, size: npt.NDArray[np.uint32]) -> dict[str, Floats]:
        """`move` is the relative change against the symbol's trade before, NaN for its first one."""
        letters = symbol.bytes.reshape(-1, LETTERS)
        number = (letters - ord("A")) @ WEIGHTS
        # Trades of one symbol next to each other, each symbol's in the order in which they came.
        order = np.argsort(number, kind="stable")
        sorted_number, sorted_price = number[order], price[order]
        first_of_symbol = np.ones(len(order), bool)
        first_of_symbol[1:] = sorted_number[1:] != sorted_number[:-1]
        before = np.roll(sorted_price, 1)
        before[first_of_symbol] = self.last_price[sorted_number[first_of_symbol]]
        # The last write of a repeated index wins: the newest price.
        self.last_price[sorted_number] = sorted_price
        move = np.empty_like(price)
        move[order] = sorted_price / before - 1.0
        return {"turnover": price * size, "move": move}
