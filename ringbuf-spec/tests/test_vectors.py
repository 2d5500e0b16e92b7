"""Reads the golden vectors with nothing but layout.toml: a second reader of the format, independent of the Rust crate."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

SPECIFICATION = Path(__file__).parents[1]
LAYOUT = tomllib.loads((SPECIFICATION / "layout.toml").read_text())
CONSTANTS = LAYOUT["constants"]
NAMES = ["fresh", "one_answered", "replaced", "second_lap"]
NO_SLOT = CONSTANTS["no_slot"]


def fnv1a(data: bytes) -> int:
    value = 0xCBF29CE484222325
    for byte in data:
        value = ((value ^ byte) * 0x100000001B3) % 2**64
    return value


def section(data: bytes, name: str, base: int = 0) -> dict[str, int]:
    """The fields of one section of layout.toml."""

    def number(field: dict[str, Any]) -> int:
        start = base + field["offset"]
        return int.from_bytes(data[start : start + field["bytes"]], "little")

    return {key: number(field) for key, field in LAYOUT[name].items()}


class File:
    """One memory file of a channel."""

    def __init__(self, name: str, role: str) -> None:
        self.data = (SPECIFICATION / "vectors" / f"{name}.{role}.bin").read_bytes()
        self.role = role
        self.header = section(self.data, "header")
        self.state = section(self.data, f"{role}_state")
        kinds = LAYOUT["kinds"]["submission" if role == "request" else "completion"]
        self.kinds = {number: kind for kind, number in kinds.items()}

    def descriptor(self, entry: int) -> dict[str, Any]:
        base = self.header["ring_offset"] + entry * CONSTANTS["descriptor_bytes"]
        fields: dict[str, Any] = section(self.data, "descriptor", base)
        fields["kind"] = self.kinds.get(fields["kind"])
        return fields

    def poll(self, position: int) -> dict[str, Any] | None:
        """What a reader at `position` finds."""
        entries = self.header["ring_entries"]
        found = self.descriptor(position % entries)
        if found["sequence"] == position + 1:
            return found
        older = found["sequence"] == 0 or (found["sequence"] <= position and (position + 1 - found["sequence"]) % entries == 0)
        assert older, f"position {position}: impossible sequence {found['sequence']}"
        return None

    def payload(self, slot: int, length: int) -> bytes:
        start = self.header["slots_offset"] + slot * self.header["slot_stride"]
        return self.data[start : start + length]


def counting(first: int, length: int) -> bytes:
    return bytes((first + index) % 256 for index in range(length))


def rounded(value: int, to: int) -> int:
    return -(-value // to) * to


FILES = [(name, role) for name in NAMES for role in ("request", "response")]


@pytest.mark.parametrize(("name", "role"), FILES)
def test_header(name: str, role: str) -> None:
    file = File(name, role)
    header = file.header
    assert header["magic"].to_bytes(8, "little") == b"RINGMILL"
    assert header["magic"] == CONSTANTS["magic"]
    assert (header["version_major"], header["version_minor"]) == (CONSTANTS["version_major"], CONSTANTS["version_minor"])
    assert header["role"] == LAYOUT["roles"][role]
    assert header["header_hash"] == fnv1a(file.data[:120])
    assert header["layout_hash"] == int(CONSTANTS["layout_hash"], 16)
    assert header["schema_hash"] == {"request": 0x51, "response": 0x52}[role]
    assert header["features_required"] == header["features_optional"] == header["reserved"] == 0
    successor = (name, role) == ("replaced", "response")
    assert (header["generation"], header["start_position"]) == ((2, 2) if successor else (1, 0))


@pytest.mark.parametrize(("name", "role"), FILES)
def test_geometry(name: str, role: str) -> None:
    file = File(name, role)
    header = file.header
    unread = header["slots"] + 2 if role == "request" else 2 * header["slots"] + 2
    assert header["ring_entries"] == 1 << (unread - 1).bit_length()
    assert header["slot_stride"] == rounded(header["slot_bytes"], CONSTANTS["line_bytes"])
    assert header["ring_offset"] == CONSTANTS["ring_offset"]
    ring_bytes = header["ring_entries"] * CONSTANTS["descriptor_bytes"]
    assert header["slots_offset"] == rounded(header["ring_offset"] + ring_bytes, CONSTANTS["page_bytes"])
    end = header["slots_offset"] + header["slots"] * header["slot_stride"]
    assert header["file_bytes"] == rounded(end, CONSTANTS["page_bytes"]) == len(file.data)


def test_layout_hash() -> None:
    data = b""
    for name in ("header", "request_state", "response_state", "descriptor"):
        for key, field in LAYOUT[name].items():
            data += f"{name}.{key}".encode() + field["offset"].to_bytes(4, "little") + field["bytes"].to_bytes(4, "little")
    assert fnv1a(data) == int(CONSTANTS["layout_hash"], 16)


def test_sections_do_not_overlap() -> None:
    for name in ("header", "request_state", "response_state", "descriptor"):
        end = 0
        for key, field in LAYOUT[name].items():
            assert field["offset"] >= end, key
            end = field["offset"] + field["bytes"]
            assert field["offset"] % field["bytes"] == 0, key
    assert sum(field["bytes"] for field in LAYOUT["descriptor"].values()) == CONSTANTS["descriptor_bytes"]
    assert sum(field["bytes"] for field in LAYOUT["header"].values()) == CONSTANTS["header_bytes"]


@pytest.mark.parametrize("role", ["request", "response"])
def test_nothing_has_happened_in_fresh(role: str) -> None:
    file = File("fresh", role)
    assert file.poll(0) is None
    expected = {"slots_free": 2} if role == "request" else {}
    assert {key: value for key, value in file.state.items() if value} == expected


def test_descriptors_of_one_answered() -> None:
    request, response = File("one_answered", "request"), File("one_answered", "response")
    for position, number in enumerate([1, 2]):
        submission = request.poll(position)
        assert submission == {
            "sequence": position + 1,
            "kind": "batch",
            "flags": 0,
            "slot": position,
            "byte_length": 64,
            "row_count": 8,
            "batch": number,
            "epoch": 0x0E0C,
            "time_a": 1_000_000 + number,
            "time_b": 2_000_000 + number,
            "time_c": 0,
        }
        assert request.payload(submission["slot"], 64) == counting(16 * number, 64)
    assert request.poll(2) is None
    ready = response.poll(0)
    assert ready is not None
    assert (ready["kind"], ready["slot"]) == ("ready", NO_SLOT)
    assert response.poll(1) == {
        "sequence": 2,
        "kind": "result",
        "flags": 0,
        "slot": 0,
        "byte_length": 48,
        "row_count": 8,
        "batch": 1,
        "epoch": 0x0E0C,
        "time_a": 3_000_001,
        "time_b": 4_000_001,
        "time_c": 5_000_001,
    }
    assert response.payload(0, 48) == counting(0xA0, 48)
    assert response.poll(2) is None
    assert (request.state["submissions_published"], response.state["submissions_read"]) == (2, 1)
    assert (response.state["completions_published"], request.state["completions_read"]) == (2, 0)
    assert (request.state["slots_free"], request.state["sleeping"], response.state["sleeping"]) == (0, 0, 0)


def test_a_replaced_worker() -> None:
    request, response = File("replaced", "request"), File("replaced", "response")
    start = response.header["start_position"]
    submissions = [request.poll(position) for position in range(start + 3)]
    assert [found and (found["kind"], found["slot"], found["batch"], found["row_count"]) for found in submissions] == [
        ("batch", 0, 1, 8),
        ("batch", 1, 2, 8),
        ("batch", 1, 2, 8),
        ("snapshot", 0, 3, 0),
        None,
    ]
    assert submissions[1] == {**submissions[2], "sequence": 2}, "asked again just so"
    assert request.payload(1, 64) == counting(32, 64), "with the same bytes"
    assert response.payload(0, 48) == counting(0xA0, 48), "the answer that was polled outlived its worker"
    assert response.payload(1, 64) == bytes(64), "and nothing else did"
    ready = response.poll(0)
    assert ready is not None
    assert ready["kind"] == "ready"
    assert response.poll(1) is None
    assert (request.state["submissions_published"], response.state["submissions_read"]) == (4, start)
    assert (response.state["completions_published"], request.state["completions_read"]) == (1, 0)
    assert (request.state["slots_free"], request.state["slots_leased"]) == (0, 0)


def test_rings_that_have_gone_round() -> None:
    request, response = File("second_lap", "request"), File("second_lap", "response")
    submissions = [request.poll(position) for position in range(4, 8)]
    assert [found and (found["kind"], found["batch"]) for found in submissions] == [
        ("batch", 5),
        ("batch", 6),
        ("batch", 7),
        ("drain", 0),
    ]
    assert request.poll(8) is None, "an older lap is not news"
    completions = [response.poll(position) for position in range(1, 9)]
    assert [found and (found["kind"], found["batch"], found["flags"]) for found in completions] == [
        ("result", 1, 0),
        ("result", 2, 0),
        ("result", 3, 0),
        ("result", 4, 0),
        ("failed", 5, 0),
        ("result", 6, CONSTANTS["flag_leased"]),
        ("lease_released", 6, 0),
        ("result", 7, 0),
    ]
    assert response.poll(9) is None, "an older lap is not news"
    assert request.state["sleeping"] != 0
    assert request.state["slots_leased"] == 0


def test_a_reader_that_is_a_lap_behind_notices() -> None:
    with pytest.raises(AssertionError, match="impossible sequence"):
        File("second_lap", "response").poll(0)


def test_hexdumps_of_the_specification() -> None:
    text = (SPECIFICATION / "SPEC.md").read_text()
    blocks = re.findall(r"^```hexdump (\S+)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 3
    for name, block in blocks:
        data = (SPECIFICATION / "vectors" / name).read_bytes()
        for line in block.splitlines():
            offset, *numbers = line.split()
            start = int(offset, 16)
            assert data[start : start + len(numbers)] == bytes(int(number, 16) for number in numbers), line


def test_tables_of_the_specification_are_those_of_layout_toml() -> None:
    text = (SPECIFICATION / "SPEC.md").read_text()
    rows = re.findall(r"^\| (\d+) \| (\d+) \| `(\w+)` \|", text, flags=re.MULTILINE)
    written = [(name, int(offset), int(size)) for offset, size, name in rows]
    specified = [
        (key, field["offset"], field["bytes"])
        for name in ("header", "request_state", "response_state")
        for key, field in LAYOUT[name].items()
    ]
    assert written == specified
