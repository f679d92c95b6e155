"""Groups of positions and subsets of a raster, against recorded lists of another program."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pypty.data.grouping import GROUP_MODES, hilbert_index, make_groups, number_of_groups, select_indices
from pypty.errors import ParameterError

GOLDEN = np.load(Path(__file__).parent / "golden" / "ptyrad" / "grouping.npz", allow_pickle=False)


def recorded(mode: str) -> list[list[int]]:
    ends = np.cumsum(GOLDEN[f"{mode}_len"])[:-1]
    return [part.tolist() for part in np.split(GOLDEN[f"{mode}_flat"], ends)]


def raster(slow: int, fast: int, step: float = 3.0) -> np.ndarray:
    return step * np.stack(np.mgrid[:slow, :fast], axis=-1).reshape(-1, 2)


def spread(positions: np.ndarray, groups: list[np.ndarray]) -> float:
    """Mean distance of a group's members from its centre."""
    return float(
        np.mean([np.linalg.norm(positions[g] - positions[g].mean(axis=0), axis=1).mean() for g in groups])
    )


@pytest.mark.parametrize("mode", ["random", "hilbert", "fps", "sparse"])
def test_groups_are_the_recorded_ones(mode: str) -> None:
    config = json.loads(str(GOLDEN["settings"]))
    groups = make_groups(GOLDEN["in_pos"], batch_size=config["batch_size"], mode=mode, seed=config["seed"])
    assert [group.tolist() for group in groups] == recorded(mode)


def test_hilbert_index_is_the_recorded_one() -> None:
    np.testing.assert_array_equal(hilbert_index(GOLDEN["in_pos"]), GOLDEN["hilbert_keys"])


def test_compact_groups_are_as_compact_as_clusters() -> None:
    positions = GOLDEN["in_pos"]
    ours = make_groups(positions, n_groups=6, mode="compact")
    theirs = [np.array(group) for group in recorded("compact")]
    assert spread(positions, ours) < 1.15 * spread(positions, theirs)
    assert spread(positions, ours) < 0.6 * spread(positions, make_groups(positions, n_groups=6))


@pytest.mark.parametrize("mode", GROUP_MODES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_groups_are_a_partition(mode: str, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 60))
    values = st.floats(-1e3, 1e3, width=32) | st.just(0.0)
    positions = np.array(data.draw(st.lists(st.tuples(values, values), min_size=count, max_size=count)))
    groups = make_groups(
        positions, n_groups=data.draw(st.integers(1, count)), mode=mode, seed=data.draw(st.integers(0, 99))
    )
    sizes = [len(group) for group in groups]
    assert sorted(np.concatenate(groups).tolist()) == list(range(count))
    assert min(sizes) >= 1 and max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    ("count", "size", "groups"), [(99, 16, 6), (10, 10, 1), (10, 11, 1), (10, 3, 3), (10, 1, 10)]
)
def test_batches_are_not_smaller_than_asked_for(count: int, size: int, groups: int) -> None:
    assert number_of_groups(count, size) == groups
    made = make_groups(raster(1, count), batch_size=size)
    assert len(made) == groups and min(len(group) for group in made) >= min(size, count)


def test_sparse_groups_of_a_large_scan_are_fast() -> None:
    positions = raster(128, 128)
    began = time.perf_counter()
    groups = make_groups(positions, batch_size=32, mode="fps")
    assert time.perf_counter() - began < 20
    assert spread(positions, groups) > 0.9 * spread(positions, make_groups(positions, batch_size=32))
    larger = raster(257, 256)
    first = make_groups(larger, batch_size=64, mode="sparse")[3]
    np.testing.assert_array_equal(first, make_groups(larger, batch_size=64, mode="hilbert")[3])


@pytest.mark.parametrize("mode", ["sub", "center"])
def test_subsets_are_the_recorded_ones(mode: str) -> None:
    np.testing.assert_array_equal(select_indices((9, 11), mode), GOLDEN[f"sel_{mode}"])
    np.testing.assert_array_equal(select_indices((9, 11), mode, (4, 6)), GOLDEN[f"sel_{mode}_4x6"])
    np.testing.assert_array_equal(select_indices((9, 11), mode, (9, 11)), np.arange(99))
    assert select_indices((1, 5), mode).tolist() == ([0, 4] if mode == "sub" else [1, 2])


def test_full_raster_and_bad_input() -> None:
    np.testing.assert_array_equal(select_indices((3, 4), "full", (1, 1)), np.arange(12))
    positions = raster(3, 3)
    for call in (
        lambda: select_indices((3, 4), "sub", (4, 4)),
        lambda: select_indices((3, 4), "center", (0, 4)),
        lambda: select_indices((3, 4), "middle"),
        lambda: make_groups(positions),
        lambda: make_groups(positions, n_groups=2, batch_size=2),
        lambda: make_groups(positions, n_groups=10),
        lambda: make_groups(positions, n_groups=0),
        lambda: make_groups(positions, n_groups=2, mode="dense"),
    ):
        with pytest.raises(ParameterError):
            call()
