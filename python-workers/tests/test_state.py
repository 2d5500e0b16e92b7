"""Per-key state, and classes that can be stored: what may be declared, and how both behave in a worker and in a test."""

import json

import numpy as np
import numpy.typing as npt
import pytest
from ring import Ring

import ringmill as rm
from ringmill import testing
from ringmill.udf import declaration_of


@rm.udf(outputs={"ewma": rm.float64}, state={"level": rm.float64, "n": rm.int64})
def ewma(temperature: npt.NDArray[np.float64], level, n):
    level = np.where(n == 0, temperature, 0.9 * level + 0.1 * temperature)
    return {"ewma": level, "level": level, "n": n + 1}


def plain_ewma(keys, temperatures):
    levels: dict = {}
    for key, temperature in zip(keys, temperatures, strict=True):
        levels[key] = 0.9 * levels[key] + 0.1 * temperature if key in levels else temperature
        yield levels[key]


@rm.udf(outputs={"total": rm.int64})
class Total:
    def setup(self):
        self.total = 0

    def __call__(self, x):
        totals = self.total + np.cumsum(x)
        self.total = int(totals[-1])
        return totals

    def snapshot(self):
        return json.dumps({"total": self.total}).encode()

    def restore(self, state):
        self.total = json.loads(state)["total"]


def test_the_state_of_each_key_follows_its_rows():
    chosen = np.random.default_rng(7)
    keys, temperatures = chosen.integers(0, 20, 500).tolist(), chosen.normal(20, 5, 500).tolist()
    result = testing.run(ewma, {"device": keys, "temperature": temperatures}, key="device")
    assert list(result) == ["ewma"]
    assert result["ewma"].tolist() == list(plain_ewma(keys, temperatures))
    assert {key: row["n"] for key, row in result.state.items()} == {key: keys.count(key) for key in set(keys)}


def test_a_run_goes_on_from_the_state_of_another():
    columns = {"a": ["x", "y", "x"], "b": [1, 1, 1], "temperature": [10.0, 20.0, 30.0]}
    first = testing.run(ewma, columns, key=["a", "b"])
    assert first.state["x", 1] == {"level": 12.0, "n": 2}
    second = testing.run(ewma, {"a": ["x"], "b": [1], "temperature": [22.0]}, key=["a", "b"], state=first.state)
    assert second["ewma"].tolist() == [13.0]


def test_cuts_do_not_matter_to_keyed_state_and_are_noticed_where_they_do():
    chosen = np.random.default_rng(8)
    columns = {"device": chosen.integers(0, 5, 60), "temperature": chosen.normal(20, 5, 60)}
    testing.assert_row_wise(ewma, columns, key="device")

    @rm.udf(outputs={"y": rm.float64}, state={"mean": rm.float64})
    def of_the_batch(temperature, mean):
        return {"y": mean * 0, "mean": np.full(len(mean), temperature.mean())}

    with pytest.raises(AssertionError, match="column 'mean'"):
        testing.assert_row_wise(of_the_batch, columns, key="device")


@pytest.mark.parametrize(
    ("state", "before"),
    [
        (rm.float64, "0.0"),
        (rm.bool_, "False"),
        (rm.timestamp("ms"), "1970-01-01T00:00:00.000"),
        (rm.State(rm.float32, initial=2), "2.0"),
        (rm.State(rm.uint64, initial=2**64 - 1), str(2**64 - 1)),
        (rm.State(rm.timestamp("s"), initial=np.datetime64("2024-01-01")), "2024-01-01T00:00:00"),
    ],
)
def test_a_key_begins_with_zero_or_with_what_was_said(state, before):
    seen = []

    @rm.udf(outputs={"y": rm.float64}, state={"s": state})
    def first(x, s):
        seen.extend(str(value) for value in s)
        return {"y": x, "s": s}

    testing.run(first, {"x": [1.0]}, key="x")
    assert seen == [before]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "state= is empty; leave it out"),
        ([rm.float64], "state= must be a dict"),
        ({"s": float}, "did you mean rm.float64"),
        ({"s": rm.nullable(rm.float64)}, "state is never null"),
        ({"s": rm.utf8}, "needs a type of fixed width, and utf8 is not"),
        ({"s": rm.list_(rm.float64)}, "needs a type of fixed width"),
        ({"y": rm.float64}, "'y' is in outputs= and in state="),
        ({"s": rm.float64, "other": rm.float64}, "state= names 'other', but there is no such parameter"),
        ({"s": rm.int64}, "its parameter takes float64"),
        ({"s": rm.State(rm.int64, initial=1.5)}, "initial= must be a int64, got 1.5"),
        ({"s": rm.State(rm.int8, initial=300)}, "initial= must be a int8, got 300"),
        ({"s": rm.State(rm.float64, initial=[1.0])}, "must be a single value"),
    ],
)
def test_state_that_cannot_be_kept_is_refused(state, message):
    with pytest.raises(rm.DeclarationError) as caught:

        @rm.udf(outputs={"y": rm.float64}, state=state)
        def function(x, s: npt.NDArray[np.float64]): ...

    assert message in str(caught.value)


def test_key_and_state_need_each_other():
    with pytest.raises(rm.SchemaError, match="keeps state for each key: say of which column"):
        testing.run(ewma, {"temperature": [1.0]})
    with pytest.raises(rm.SchemaError, match="keeps no state=, so key= has no effect"):
        testing.run(Total, {"x": [1]}, key="x")
    with pytest.raises(rm.SchemaError, match="key column 'device' is missing"):
        testing.run(ewma, {"temperature": [1.0]}, key="device")
    with pytest.raises(rm.SchemaError, match="has a column 'level' already"):
        testing.run(ewma, {"temperature": [1.0], "level": [1.0]}, key="temperature")


@rm.udf(outputs={"y": rm.float64}, state={"n": rm.int64})
def counts_in_place(x, n, *, out):
    out["y"][:] = x
    out["n"][:] = n + 1


@rm.udf(outputs={"y": rm.float64}, state={"n": rm.int64})
def counts_batches(batch: rm.Batch):
    return batch["x"], batch["n"] + 1


@pytest.mark.parametrize("udf", [counts_in_place, counts_batches])
def test_state_goes_with_out_and_with_batches_too(udf):
    result = testing.run(udf, {"k": ["a", "a", "b"], "x": [1.0, 2.0, 3.0]}, key="k")
    assert result["y"].tolist() == [1.0, 2.0, 3.0]
    assert result.state == {"a": {"n": 2}, "b": {"n": 1}}


def test_a_worker_is_given_state_like_input_and_returns_it_like_output():
    ring = Ring(ewma, {"temperature": rm.float64, "level": rm.float64, "n": rm.int64})
    result = ring.results({"temperature": [10.0, 20.0], "level": [0.0, 10.0], "n": [0, 5]})
    assert result["ewma"].tolist() == [10.0, 11.0]
    assert result["n"].tolist() == [1, 6]


class NoArguments:
    def snapshot(self): ...
    def restore(self): ...


class OneArgument:
    def snapshot(self, other): ...
    def restore(self, state): ...


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ({"snapshot": NoArguments.snapshot}, "snapshot() is nothing without restore(self, state)"),
        ({"restore": OneArgument.restore}, "restore() is nothing without snapshot(self)"),
        ({"snapshot": OneArgument.snapshot, "restore": OneArgument.restore}, "called as snapshot(self) -> bytes"),
        ({"snapshot": NoArguments.snapshot, "restore": NoArguments.restore}, "called as restore(self, state: bytes) -> None"),
    ],
)
def test_half_a_snapshot_is_refused(methods, message):
    def call(self, x): ...

    target = type("Model", (), {"__call__": call, **methods})
    with pytest.raises(rm.DeclarationError) as caught:
        rm.udf(outputs={"y": rm.float64})(target)
    assert message in str(caught.value)


def test_only_classes_with_both_methods_are_snapshot():
    declared = [declaration_of(udf) for udf in (Total, ewma)]
    assert [declaration is not None and declaration.has_snapshot for declaration in declared] == [True, False]


def snapshot(ring: Ring) -> bytes:
    """All pieces, asked for as the core does."""
    whole, (_, room) = b"", ring.core.slot_bytes
    for piece in range(1000):
        slot = ring.core.snapshot(piece)
        completion = ring.answer()
        assert completion["kind"] == "result", completion["failure"]
        assert slot == completion["slot"]
        ring.core.release(slot)
        whole += completion["payload"]
        if len(completion["payload"]) < room:
            return whole
    raise AssertionError("it has no end")


def restore(ring: Ring, whole: bytes) -> None:
    room, _ = ring.core.slot_bytes
    for piece in range(len(whole) // room + 1):
        slot = ring.core.restore(piece, whole[piece * room : (piece + 1) * room])
        completion = ring.answer()
        assert completion["kind"] == "result", completion["failure"]
        assert slot == completion["slot"]
        ring.core.release(slot)


def test_another_worker_goes_on_from_a_snapshot():
    first, second = Ring(Total, {"x": rm.int64}), Ring(Total, {"x": rm.int64})
    assert first.results({"x": [1, 2]})["total"].tolist() == [1, 3]
    restore(second, snapshot(first))
    # Slots that carried a snapshot carry batches again.
    for expected in range(10, 90, 7):
        assert second.results({"x": [7]})["total"].tolist() == [expected]


def test_the_kit_shows_whether_a_snapshot_holds_all_that_was_learnt():
    testing.assert_row_wise(Total, {"x": np.arange(20)})

    @rm.udf(outputs={"y": rm.int64})
    class Forgets:
        def __init__(self):
            self.seen = 0

        def __call__(self, x):
            self.seen += len(x)
            return self.seen - len(x) + np.arange(len(x))

        def snapshot(self):
            return b""

        def restore(self, state): ...

    with pytest.raises(AssertionError, match="column 'y'"):
        testing.assert_row_wise(Forgets, {"x": np.arange(20)})


@pytest.mark.parametrize("beyond", [-1, 0, 1])
@pytest.mark.parametrize("slots", [0, 1, 3])
def test_a_snapshot_may_be_larger_than_a_slot(slots, beyond):
    @rm.udf(outputs={"y": rm.int64})
    class Large:
        kept = b""

        def __call__(self, x):
            return x

        def snapshot(self):
            return memoryview(self.kept)

        def restore(self, state):
            assert isinstance(state, bytes)
            self.kept = state

    ring, other = Ring(Large, {"x": rm.int64}), Ring(Large, {"x": rm.int64})
    length = max(0, slots * ring.core.slot_bytes[1] + beyond)
    Large.kept = np.random.default_rng(length).bytes(length)
    whole = snapshot(ring)
    Large.kept = b""
    restore(other, whole)
    assert whole == snapshot(other)
    assert len(whole) == length


def test_a_snapshot_that_fails_is_a_failure_and_not_the_end_of_the_worker():
    @rm.udf(outputs={"y": rm.int64})
    class Bad:
        def __call__(self, x):
            return x

        def snapshot(self):
            return {"a": 1}

        def restore(self, state):
            raise ValueError(f"{state!r} is not mine")

    ring = Ring(Bad, {"x": rm.int64})
    for ask, error in [
        (lambda: ring.core.snapshot(0), "TypeError: snapshot() must return bytes, bytearray or memoryview, not dict"),
        (lambda: ring.core.restore(0, b"x"), "ValueError: b'x' is not mine"),
        (lambda: ring.core.snapshot(3), "RuntimeError: piece 3 of a snapshot was asked for out of order"),
    ]:
        slot = ask()
        completion = ring.answer()
        assert completion["kind"] == "failed"
        assert json.loads(completion["failure"])["error"] == error
        ring.core.release(slot)
    assert ring.results({"x": [4]})["y"].tolist() == [4]
