"""What a UDF is shown: the ring's own memory, read-only, and never other bytes than those it was shown."""

import gc
import re
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ring import Ring

import ringmill as rm

X = {"x": rm.float64}


def mapping_of(address: int) -> str:
    """The line of /proc/self/maps that ``address`` lies in."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        match = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
        assert match is not None
        if int(match[1], 16) <= address < int(match[2], 16):
            return line
    raise AssertionError(f"{address:#x} is not mapped")


def keeper(keep: Any) -> Any:
    """A UDF that lets ``keep`` have its argument."""

    @rm.udf(outputs={"rows": rm.int64})
    def kept(x):
        keep(x)
        return np.full(len(x), len(x))

    return kept


def batch_keeper(keep: Any) -> Any:
    @rm.udf(outputs={"rows": rm.int64})
    def kept(batch: rm.Batch):
        keep(batch)
        return np.full(len(batch), len(batch))

    return kept


def test_an_argument_is_the_memory_of_the_ring_mapped_read_only():
    lines = []
    ring = Ring(keeper(lambda x: lines.append(mapping_of(x.ctypes.data))), X)
    ring.ask({"x": np.arange(4.0)})
    (line,) = lines
    assert " r--s " in line
    assert "memfd" in line


def test_an_argument_can_be_neither_written_nor_made_writable():
    def try_to_write(x):
        assert not x.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            x[0] = 1.0
        with pytest.raises(ValueError, match="WRITEABLE"):
            x.flags.writeable = True
        with pytest.raises(ValueError, match="WRITEABLE"):
            x[:2].flags.writeable = True

    completion = Ring(keeper(try_to_write), X).ask({"x": np.arange(4.0)})
    assert completion["kind"] == "result", completion["failure"]


def test_the_same_array_is_handed_out_again_for_the_same_slot():
    seen: dict[int, list[int]] = {}
    ring = Ring(keeper(lambda x: seen.setdefault(x.ctypes.data, []).append(id(x))), X, slots=2)
    for _ in range(6):
        ring.ask({"x": np.arange(4.0)})
    assert all(len(set(objects)) == 1 for objects in seen.values())
    assert sum(len(objects) for objects in seen.values()) == 6


def test_batches_of_other_lengths_get_arrays_of_their_length():
    lengths = []
    ring = Ring(keeper(lambda x: lengths.append(x.shape)), X)
    for rows in (8, 3, 8, 1, 0, 8):
        ring.ask({"x": np.arange(float(rows))})
    assert lengths == [(8,), (3,), (8,), (1,), (0,), (8,)]


def test_no_lease_is_left_when_nothing_was_kept():
    ring = Ring(keeper(lambda x: x.sum()), X)
    for _ in range(20):
        assert not ring.ask({"x": np.arange(4.0)})["leased"]
    assert ring.core.free_slots == ring.slots


WAYS_TO_KEEP = {
    "the array": lambda x: x,
    "a slice": lambda x: x[1:],
    "a slice of a slice": lambda x: x[1:][::2],
    "another dtype": lambda x: x.view(np.int64),
    "a reshaped view": lambda x: x.reshape(2, -1),
    "a memoryview": lambda x: memoryview(x),
    "a memoryview of a slice": lambda x: memoryview(x[1:])[1:],
    "np.asarray of a memoryview": lambda x: np.asarray(memoryview(x)),
    "the base": lambda x: (x.base, np.array(x)),
    "a masked array": lambda x: np.ma.MaskedArray(x),
    "an iterator": lambda x: np.nditer(x),
    "a flat iterator": lambda x: x.flat,
    "a bound method": lambda x: x.sum,
    "an Arrow array": lambda x: pa.array(x),
    "a Polars series": lambda x: pl.Series(x),
    "a closure": lambda x: lambda: x,
    "a container": lambda x: [{"x": (x,)}],
}


def shown(kept: Any) -> Any:
    """What a kept thing shows now, as a list of numbers."""
    if callable(kept):
        kept = kept()
    if isinstance(kept, list):
        kept = kept[0]["x"][0]
    if isinstance(kept, tuple):
        kept = kept[1]
    if isinstance(kept, np.nditer):
        kept = kept.operands[0]
    if isinstance(kept, (pa.Array, pl.Series)):
        kept = kept.to_numpy()
    return np.array(kept).tolist()


@pytest.mark.parametrize("way", WAYS_TO_KEEP)
def test_what_is_kept_never_shows_other_bytes(way: str) -> None:
    kept: list[Any] = []
    ring = Ring(keeper(lambda x: kept.append(WAYS_TO_KEEP[way](x)) if not kept else None), X)
    first = ring.ask({"x": np.array([1.0, 2.0, 3.0, 4.0])})
    assert first["kind"] == "result", first["failure"]
    before = shown(kept[0])
    for number in range(3 * ring.slots):
        ring.ask({"x": np.full(4, -1.0 - number)})
    assert shown(kept[0]) == before


@pytest.mark.parametrize("way", WAYS_TO_KEEP)
def test_a_lease_ends_with_what_was_kept(way: str) -> None:
    kept: list[Any] = []
    ring = Ring(keeper(lambda x: kept.append(WAYS_TO_KEEP[way](x)) if not kept else None), X)
    completion = ring.ask({"x": np.arange(4.0)})
    # pa.array() and pl.Series() copy from a read-only array in some versions; then there is nothing to lease.
    if way in ("an Arrow array", "a Polars series") and not completion["leased"]:
        return
    assert completion["leased"]
    assert ring.ended_leases() == []
    assert ring.core.free_slots == ring.slots - 1
    kept.clear()
    assert ring.ended_leases() == [completion["slot"]]
    assert ring.core.free_slots == ring.slots


def test_an_array_that_only_a_weak_reference_could_bring_back_is_not_used_again():
    references: list[Any] = []
    ring = Ring(keeper(lambda x: references.append(weakref.ref(x))), X, slots=2)
    for _ in range(4):
        assert not ring.ask({"x": np.arange(4.0)})["leased"]
        array = references[-1]()
        assert array is None


@pytest.mark.parametrize(
    "alter",
    [
        lambda x: setattr(x, "shape", (2, 2)),
        lambda x: setattr(x, "dtype", np.int64),
        lambda x: setattr(x, "strides", (0,)),
        lambda x: setattr(x, "shape", (1, 4)),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_array_that_was_altered_is_replaced(alter: Any) -> None:
    seen: list[Any] = []

    def look(x):
        seen.append((x.shape, x.dtype, x.strides))
        alter(x)

    ring = Ring(keeper(look), X, slots=2)
    for _ in range(6):
        assert not ring.ask({"x": np.arange(4.0)})["leased"]
    assert set(seen) == {((4,), np.dtype("float64"), (8,))}


def test_an_array_that_another_thread_holds_is_leased_until_the_thread_lets_go():
    let_go = threading.Event()
    threads: list[threading.Thread] = []

    def hold(x):
        def work(array):
            let_go.wait(10)

        threads.append(threading.Thread(target=work, args=(x,)))
        threads[-1].start()

    ring = Ring(keeper(hold), X)
    assert ring.ask({"x": np.arange(4.0)})["leased"]
    let_go.set()
    threads.pop().join()
    gc.collect()
    assert ring.ended_leases() == [0]


def test_the_arguments_of_a_failed_call_are_not_held_by_its_traceback():
    @rm.udf(outputs={"y": rm.float64})
    def fails(x):
        local = x[1:]
        raise ValueError(f"no {len(local)}")

    ring = Ring(fails, X)
    for _ in range(10):
        completion = ring.ask({"x": np.arange(4.0)})
        assert completion["kind"] == "failed"
        assert not completion["leased"]


def test_an_array_caught_in_a_cycle_is_found_by_the_collector_before_slots_run_out():
    def tangle(x):
        cycle: list[Any] = [x]
        cycle.append(cycle)

    gc.disable()
    try:
        ring = Ring(keeper(tangle), X, slots=4)
        for _ in range(20):
            ring.ask({"x": np.arange(4.0)})
    finally:
        gc.enable()
    assert ring.log == []


def test_who_keeps_half_of_the_slots_gets_copies_and_is_named_in_the_log():
    kept: list[Any] = []
    ring = Ring(keeper(kept.append), X, slots=4)
    completions = [ring.ask({"x": np.full(4, float(number))}) for number in range(10)]
    assert [completion["leased"] for completion in completions] == [True, True] + [False] * 8
    assert [array.tolist() for array in kept] == [[float(number)] * 4 for number in range(10)]
    assert not any(array.flags.writeable for array in kept)
    ((level, message),) = ring.log
    assert level == "warning"
    assert "kept" in message
    assert "2 of 4 slots" in message
    kept.clear()
    assert sorted(ring.ended_leases()) == [completions[0]["slot"], completions[1]["slot"]]
    ring.ask({"x": np.arange(4.0)})
    assert kept[-1].base is not None


def test_a_view_outlives_the_worker_and_the_channel():
    kept: list[Any] = []
    ring = Ring(keeper(kept.append), X)
    ring.ask({"x": np.array([1.0, 2.0, 3.0])})
    del ring
    gc.collect()
    assert kept[0].tolist() == [1.0, 2.0, 3.0]


def test_a_kept_out_array_leases_its_slot_and_later_writes_change_no_other_result():
    kept: list[Any] = []

    @rm.udf(outputs={"y": rm.float64})
    def doubled(x, out):
        kept.append(out)
        np.multiply(x, 2, out=out)

    ring = Ring(doubled, X, slots=8)
    first = ring.ask({"x": np.arange(4.0)})
    assert first["leased"]
    assert kept[0].base is not None
    for number in range(2, 10):
        kept[0][:] = -1
        assert ring.results({"x": np.full(4, float(number))})["y"].tolist() == [2.0 * number] * 4
        del kept[1:]
        ring.ended_leases()


def test_the_columns_of_a_batch_are_the_memory_of_the_ring_for_arrow_and_polars_too():
    addresses: list[Any] = []

    def look(batch):
        array = batch["x"].ctypes.data
        table = pa.record_batch(batch)
        frame = pl.DataFrame(batch)
        addresses.append((array, table.column(0).buffers()[1].address, frame["x"].to_numpy(allow_copy=False).ctypes.data))
        text = batch["s"]
        offsets, data = table.column(1).buffers()[1:]
        addresses.append((text.offsets.ctypes.data, offsets.address))
        addresses.append((text.bytes.ctypes.data, data.address))

    ring = Ring(batch_keeper(look), {"x": rm.float64, "s": rm.utf8})
    completion = ring.ask({"x": np.arange(4.0), "s": ["a", "bc", "", "def"]})
    assert completion["kind"] == "result", completion["failure"]
    for same in addresses:
        assert len(set(same)) == 1
    assert " r--s " in mapping_of(addresses[0][0])


@pytest.mark.parametrize(
    "take",
    [
        lambda batch: batch,
        lambda batch: batch["s"],
        lambda batch: batch["l"][1],
        lambda batch: iter(batch["s"]),
        lambda batch: pa.record_batch(batch),
        lambda batch: pa.record_batch(batch).column(0),
        lambda batch: pa.table(batch),
        lambda batch: pl.DataFrame(batch)["x"],
        lambda batch: batch.__arrow_c_array__(),
        lambda batch: batch.__arrow_c_stream__(),
        lambda batch: pa.array(batch["s"]),
        lambda batch: pa.array(batch["l"]),
    ],
)
def test_whatever_is_taken_from_a_batch_holds_its_slot(take: Any) -> None:
    kept: list[Any] = []
    schema = {"x": rm.float64, "s": rm.utf8, "l": rm.list_(rm.float64)}
    ring = Ring(batch_keeper(lambda batch: kept.append(take(batch)) if not kept else None), schema)
    columns = {"x": np.arange(2.0), "s": ["a", "bc"], "l": [[1.0], [2.0, 3.0]]}
    completion = ring.ask(columns)
    assert completion["kind"] == "result", completion["failure"]
    assert completion["leased"]
    before = str(kept[0])
    for _ in range(2 * ring.slots):
        assert not ring.ask({"x": np.full(2, -1.0), "s": ["zz", "zz"], "l": [[9.0], [9.0, 9.0]]})["leased"]
    assert str(kept[0]) == before
    kept.clear()
    gc.collect()
    assert ring.ended_leases() == [completion["slot"]]


def test_an_arrow_consumer_may_let_go_without_the_gil():
    kept: list[Any] = []
    ring = Ring(batch_keeper(lambda batch: kept.append(pl.DataFrame(batch).lazy()) if not kept else None), X)
    assert ring.ask({"x": np.arange(8.0)})["leased"]
    assert kept.pop().select(pl.col("x").sum()).collect().item() == 28.0
    gc.collect()
    assert ring.ended_leases() == [0]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 8), st.sampled_from(["nothing", *WAYS_TO_KEEP]), st.lists(st.integers(0, 20), max_size=3)),
        max_size=40,
    )
)
def test_under_any_pattern_of_keeping_and_letting_go_every_view_shows_its_own_batch(plan: Any) -> None:
    kept: list[Any] = []
    current = ["nothing"]

    def keep(x):
        if (current[0] == "a reshaped view" and len(x) % 2) or (current[0] == "an iterator" and not len(x)):
            return
        if current[0] != "nothing":
            thing = WAYS_TO_KEEP[current[0]](x)
            kept.append((thing, shown(thing)))

    ring = Ring(keeper(keep), X)
    free_at_start = ring.core.free_slots
    for number, (rows, way, dropped) in enumerate(plan):
        current[0] = way
        completion = ring.ask({"x": np.arange(float(rows)) + 100 * number})
        assert completion["kind"] == "result", completion["failure"]
        for thing, before in kept:
            assert shown(thing) == before
        for index in dropped:
            if index < len(kept):
                del kept[index]
        thing = None
        ring.ended_leases()
    kept.clear()
    gc.collect()
    ring.ended_leases()
    assert ring.core.free_slots == free_at_start
