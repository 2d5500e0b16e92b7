"""Reads the captured micro-batches in ``schemas/vectors`` with nothing of Ringmill's.

Only the stock ``flatbuffers`` package, code that ``flatc`` generated from ``micro_batch.fbs``, and NumPy: what any
other language would have. Each ``NAME.bin`` is a slot as it lies in a ring, each ``NAME.json`` says what it holds.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SCHEMAS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(SCHEMAS / "python"))

from micro_batch_generated import Column, MicroBatch  # noqa: E402

VECTORS = sorted((SCHEMAS / "vectors").glob("*.bin"))
assert len(VECTORS) >= 4, "the vectors are committed"
DTYPES = {"bool": "?", "float32": "<f4", "float64": "<f8"}
DTYPES |= {f"int{bits}": f"<i{bits // 8}" for bits in (8, 16, 32, 64)}
DTYPES |= {f"uint{bits}": f"<u{bits // 8}" for bits in (8, 16, 32, 64)}
DTYPES |= {f"timestamp[{unit}]": "<i8" for unit in ("s", "ms", "us", "ns")}


def read(vector: Path) -> tuple[bytes, MicroBatch, dict[str, Any]]:
    captured = vector.read_bytes()
    expected = json.loads(vector.with_suffix(".json").read_text())
    assert MicroBatch.MicroBatchBufferHasIdentifier(captured, 0)
    return captured, MicroBatch.GetRootAs(captured, 0), expected


def array(vector: Any, dtype: str = "u1") -> np.ndarray:
    """The generated accessors give 0 for a vector that is absent or empty."""
    return vector.view(dtype) if isinstance(vector, np.ndarray) else np.empty(0, dtype)


def values(column: Column, data_type: str, rows: int) -> list[Any]:
    """The column's values as Python has them, whatever the validity says."""
    raw = array(column.ValuesAsNumpy())
    item = re.fullmatch(r"list\[(.*)\]", data_type)
    if item is None and data_type in DTYPES:
        found = raw.view(DTYPES[data_type]).tolist()
        assert len(found) == rows
        return found
    offsets = array(column.OffsetsAsNumpy(), "<i4")
    assert len(offsets) == rows + 1
    assert offsets[0] == 0
    if item is not None:
        items = raw.view(DTYPES[item[1]])
        assert offsets[-1] == len(items)
        return [items[start:end].tolist() for start, end in itertools.pairwise(offsets)]
    assert offsets[-1] == len(raw)
    texts = [raw[start:end].tobytes() for start, end in itertools.pairwise(offsets)]
    return [text.decode() if data_type == "utf8" else text.hex() for text in texts]


def valid(column: Column, nullable: bool, rows: int) -> list[bool]:
    if not nullable:
        assert column.ValidityIsNone()
        return [True] * rows
    bits = np.unpackbits(array(column.ValidityAsNumpy()), bitorder="little")
    assert len(bits) == (rows + 7) // 8 * 8
    assert not bits[rows:].any(), "the bits beyond the last row are 0"
    return bits[:rows].astype(bool).tolist()


def as_expected(value: Any) -> Any:
    """Floats that JSON cannot hold, and zeros with their sign, stand as texts in the vectors."""
    if isinstance(value, list):
        return [as_expected(item) for item in value]
    if isinstance(value, float) and (value == 0.0 or not math.isfinite(value)):
        return {"nan": "NaN", "inf": "inf", "-inf": "-inf", "0.0": "0", "-0.0": "-0"}[str(value)]
    return value


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.stem)
def test_the_stock_reader_finds_the_values(vector: Path) -> None:
    _, batch, expected = read(vector)
    rows = expected["rows"]
    assert batch.Rows() == rows
    assert batch.ColumnsLength() == len(expected["columns"])
    for index, field in enumerate(expected["columns"]):
        column = batch.Columns(index)
        there = valid(column, field["nullable"], rows)
        assert column.NullCount() == there.count(False)
        assert column.OffsetsIsNone() == (field["data_type"] in DTYPES)
        found = values(column, field["data_type"], rows)
        found = [as_expected(value) if is_there else None for value, is_there in zip(found, there, strict=True)]
        assert found == field["values"], field["name"]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.stem)
def test_every_buffer_starts_at_a_multiple_of_64(vector: Path) -> None:
    captured, batch, expected = read(vector)
    assert len(captured) % 64 == 0
    start = np.frombuffer(captured, "u1").ctypes.data
    for index in range(batch.ColumnsLength()):
        column = batch.Columns(index)
        for found in (column.ValuesAsNumpy(), column.OffsetsAsNumpy(), column.ValidityAsNumpy()):
            if isinstance(found, np.ndarray) and len(found):
                assert (found.ctypes.data - start) % 64 == 0, expected["columns"][index]["name"]


def fnv_1a(text: str) -> int:
    hashed = 0xCBF29CE484222325
    for byte in text.encode():
        hashed = (hashed ^ byte) * 0x100000001B3 % 2**64
    return hashed


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.stem)
def test_the_schema_hash_can_be_computed_from_the_readme_alone(vector: Path) -> None:
    _, batch, expected = read(vector)
    text = "ringmill.wire.schema/1\n"
    for field in expected["columns"]:
        mark = "?" if field["nullable"] else ""
        text += f"{len(field['name'].encode())}:{field['name']} {field['data_type']}{mark}\n"
    assert text == expected["schema_canonical_text"]
    assert fnv_1a(text) == batch.SchemaHash() == int(expected["schema_hash"], 16)


GENERATED = [
    SCHEMAS / "python/micro_batch_generated.py",
    SCHEMAS.parent / "rust-core/wire/src/generated/micro_batch_generated.rs",
]


@pytest.mark.parametrize("generated", GENERATED, ids=lambda generated: generated.suffix)
def test_the_generated_code_is_of_this_schema(generated: Path) -> None:
    schema = hashlib.sha256((SCHEMAS / "micro_batch.fbs").read_bytes()).hexdigest()
    recorded = re.search(r"micro_batch\.fbs sha256 ([0-9a-f]{64})", generated.read_text())
    assert recorded is not None
    assert recorded[1] == schema, "run schemas/generate"


def flatc() -> str | None:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ringmill/flatc-25.12.19/flatc"
    return os.environ.get("FLATC") or (str(cache) if cache.exists() else None)


@pytest.mark.skipif(flatc() is None or shutil.which("sh") is None, reason="no flatc 25.12.19; schemas/generate builds it")
def test_generating_again_changes_nothing() -> None:
    checked = subprocess.run([SCHEMAS / "generate", "--check"], check=False, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
