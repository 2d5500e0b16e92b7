"""Runs the same model over the same file in plain Python and compares every forecast, bit for bit.

python compare.py FLIGHTS.ndjson.gz FORECASTS.ndjson
"""

import gzip
import json
import sys
from collections import defaultdict
from datetime import datetime
from pathlib import Path

from forecast import Airport

FLIGHTS_MIN = 5
"""Quieter hours are left out, by the filter of pipeline.toml too."""

Forecasts = dict[tuple[str, datetime], float]
"""Expected delay by airport and hour."""


def without_ringmill(path: Path) -> tuple[Forecasts, float, float]:
    """The forecasts, the model's mean absolute error, and that of the rule "as in the hour before", in minutes."""
    hours: defaultdict[tuple[datetime, str], list[int]] = defaultdict(list)
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            flight = json.loads(line)
            hour = datetime.fromisoformat(flight["departed"]).replace(minute=0, second=0)
            hours[hour, flight["route"]["from"]].append(flight["delay_minutes"])
    airports: defaultdict[str, Airport] = defaultdict(Airport)
    forecasts: Forecasts = {}
    error = error_of_rule = 0.0
    for (hour, origin), delays in sorted(hours.items()):
        if len(delays) < FLIGHTS_MIN:
            continue
        airport = airports[origin]
        mean = sum(delays) / len(delays)
        error_of_rule += abs(airport.before - mean)
        expected = forecasts[origin, hour] = airport.step(hour, len(delays), sum(delays))
        error += abs(expected - mean)
    return forecasts, error / len(forecasts), error_of_rule / len(forecasts)


def of_ringmill(path: Path) -> Forecasts:
    """The forecasts that the job wrote; two for one airport and hour are an error."""
    forecasts: Forecasts = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        key = (row["origin"], datetime.fromisoformat(row["window_start"]))
        if key in forecasts:
            raise ValueError(f"there are two forecasts for {key}")
        forecasts[key] = row["expected_delay"]
    return forecasts


def main() -> int:
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    expected, error, error_of_rule = without_ringmill(Path(sys.argv[1]))
    found = of_ringmill(Path(sys.argv[2]))
    different = [key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key)]
    print(f"{len(found):,} forecasts, {len(different):,} differ from the same model without Ringmill")
    print(f"mean error of the model {error:.2f} minutes, of the rule 'as in the hour before' {error_of_rule:.2f} minutes")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
