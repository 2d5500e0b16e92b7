"""An online model for each airport: what mean delay to expect of an hour, learnt from the hours before."""

from collections import defaultdict
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
from river import compose, linear_model, optim, preprocessing, stats

import ringmill as rm

Integers = npt.NDArray[np.integer]


class Airport:
    """Forecasts each hour before it learns from it, so that no forecast has seen its own answer."""

    def __init__(self) -> None:
        regression = linear_model.LinearRegression(optimizer=optim.SGD(0.001))
        self.model = compose.Pipeline(preprocessing.StandardScaler(), regression)
        self.usual_by_hour: defaultdict[int, stats.Mean] = defaultdict(stats.Mean)
        self.recent = stats.EWMean(0.4)
        self.before = 0.0
        self.usual_before = 0.0

    def step(self, hour: datetime, flights: int, delay_minutes: int) -> float:
        """Takes what happened in `hour`; returns the mean delay, in minutes, that was expected of it."""
        usual = self.usual_by_hour[hour.hour]
        features = {
            "flights": float(flights),
            "usual": usual.get(),
            "recent": self.recent.get(),
            "before": self.before,
            "usual_before": self.usual_before,
        }
        expected = float(self.model.predict_one(features))
        delay = delay_minutes / flights
        self.model.learn_one(features, delay)
        self.before, self.usual_before = delay, usual.get()
        usual.update(delay)
        self.recent.update(delay)
        return expected


@rm.udf(outputs={"expected_delay": rm.float64}, version=1)
class DelayForecast:
    """Hours of one airport arrive in order, always at the same worker: its model is this worker's own."""

    def setup(self) -> None:
        self.airports: defaultdict[str, Airport] = defaultdict(Airport)

    def __call__(
        self, origin: rm.StringColumn, window_start: npt.NDArray[np.datetime64], flights: Integers, delay_minutes: Integers
    ) -> npt.NDArray[np.float64]:
        hours = [datetime.fromtimestamp(second, UTC) for second in window_start.astype("datetime64[s]").astype(int).tolist()]
        rows = zip(origin, hours, flights.tolist(), delay_minutes.tolist(), strict=True)
        return np.array([self.airports[str(name)].step(*hour) for name, *hour in rows])
