"""The Python clients' windows are those of the oracle, whatever order partitions come in."""

import io
import json

import numpy as np
from peers import data, oracle
from peers.engines.kafka_clients import Windows

ROWS = 30_000
PARTITIONS = 4


def test_windows_close_when_every_partition_has_gone_past_them() -> None:
    output = io.StringIO()
    windows = Windows(list(range(PARTITIONS)), output)
    messages: list[list[bytes]] = [[] for _ in range(PARTITIONS)]
    for chunk in data.readings(data.J4, ROWS):
        for device, timestamp, temperature in zip(
            chunk.device.tolist(), chunk.timestamp.tolist(), chunk.temperature.tolist(), strict=True
        ):
            event = {
                "device": {"id": data.device_name(device)},
                "timestamp": timestamp,
                "readings": {"temperature": temperature, "humidity": 1.0},
            }
            messages[device % PARTITIONS].append(json.dumps(event).encode())
    for partition, values in enumerate(messages):
        assert not output.getvalue(), "a partition is missing still"
        windows.add(partition, values, json.loads)
        windows.close_passed()
    assert 0 < output.getvalue().count("\n") < len(oracle.windows(data.J4, ROWS))
    windows.end()
    rows = [line.split(",") for line in output.getvalue().splitlines()]
    actual = oracle.Windows(
        np.array([int(row[1]) for row in rows]),
        np.array([int(row[0].removeprefix("sensor-")) for row in rows]),
        np.array([float(row[2]) for row in rows]),
        np.array([float(row[3]) for row in rows]),
    )
    assert oracle.differences(oracle.windows(data.J4, ROWS), actual) == []
