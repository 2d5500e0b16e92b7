"""Comparing two builds: what counts as worse, and a whole comparison of a build with itself."""

import shutil
from pathlib import Path

import compare_commits as compare
import pytest
import run


def compared(*ratios: float) -> compare.Compared:
    return compare.Compared("a case", "rows_per_second", 2e6, 1e6, ratios)


@pytest.mark.parametrize(
    ("ratios", "is_worse"),
    [
        ((1.0, 1.01, 0.99), False),
        ((0.7, 1.1, 1.0), False),
        ((0.9, 0.91, 0.92), True),
        ((0.9, 0.91, 1.3), True),  # one pair that was disturbed
        ((0.9, 0.98, 0.98), False),
        ((0.9, 0.92, 1.1, 1.2, 0.93), False),  # a median that is worse, but noise as large
        ((0.5,), True),
        ((0.96,), False),
    ],
)
def test_worse_is_what_is_so_in_nearly_every_pair(ratios: tuple[float, ...], is_worse: bool) -> None:
    assert compared(*ratios).is_worse(0.05) is is_worse
    assert ("WORSE" in compared(*ratios).line(0.05)) is is_worse


def test_lower_latency_and_higher_throughput_are_better() -> None:
    slow = {"rows_per_second": 1e6, "latency_ns": {"end_to_end": {"p50": 400}}}
    fast = {"rows_per_second": 2e6, "latency_ns": {"end_to_end": {"p50": 100}}}
    assert compare.figures("a case", "rows_per_second", [slow], [fast]).ratios == (2.0,)
    assert compare.figures("a case", "end_to_end.p50", [slow], [fast]).ratios == (4.0,)


def test_a_build_beside_itself_gives_a_ratio_for_each_figure(tmp_path: Path) -> None:
    shutil.copytree(run.PIPELINES, tmp_path, dirs_exist_ok=True)
    side = compare.Side("itself", {})
    run.write_events(10_000, tmp_path)
    for case in run.cases(10_000):
        if case.pipeline not in ("nothing", "ndjson"):
            continue
        found = compare.compare(case.lasting(0.2), side, side, 2, tmp_path)
        assert [each.figure for each in found] == list(case.figures)
        for each in found:
            assert len(each.ratios) == 2
            assert min(*each.ratios, each.base, each.new) > 0


def test_an_unknown_commit_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RINGMILL_CACHE", str(tmp_path))
    with pytest.raises(SystemExit, match="no-such-commit"):
        compare.commit_side("no-such-commit")
    assert not list(tmp_path.iterdir())
