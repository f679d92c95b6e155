"""Metrics of the convergence monitor, against recorded ones of another program (golden/ptyrad)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pypty.engine.epochs.convergence import TENSORS, ConvergenceMonitor, illuminated_area
from pypty.errors import CheckpointError
from pypty.params.schema.batches import MONITOR
from pypty.params.schema.batches import TENSORS as WATCHED

GOLDEN = np.load(Path(__file__).parent / "golden" / "ptyrad" / "convergence_monitor.npz", allow_pickle=False)
EXPECTED = dict(zip(GOLDEN["out_names"].tolist(), GOLDEN["out_values"].tolist(), strict=True))


def monitor(**changes: object) -> ConvergenceMonitor:
    area = illuminated_area(GOLDEN["crop_pos"], tuple(GOLDEN["probe_shape"]))
    dx = float(GOLDEN["dx"])
    return ConvergenceMonitor(area, (dx, dx), percentile_range=tuple(GOLDEN["percentile"]), **changes)  # type: ignore[arg-type]


def arrays(end: str = "") -> dict[str, np.ndarray]:
    return {
        "amplitude": GOLDEN[f"obja{end}"],
        "phase": GOLDEN[f"objp{end}"],
        "probe": GOLDEN[f"probe{end}"],
        "positions_px": GOLDEN["crop_pos"] + GOLDEN[f"shifts{end}"],
    }


def by_definition() -> dict[str, float]:
    """The formulas once more, in float64."""
    rows, columns = (
        slice(int((c := GOLDEN["crop_pos"][:, axis] + 8).min()) - 1, int(c.max())) for axis in (0, 1)
    )
    found = {}
    for name in ("obja", "objp"):
        now, before = (GOLDEN[f"{name}{end}"][..., rows, columns].astype(np.float64) for end in ("", "_prev"))
        now, before = (1 - now, 1 - before) if name == "obja" else (now, before)
        low, high = np.quantile(now, [0.15, 0.85])
        found[f"{name}_bg"] = np.abs(now - before)[now < low].mean()
        found[f"{name}_fg"] = np.abs(now - before)[now > high].mean()
    now, before = ((np.abs(GOLDEN[f"probe{end}"]) ** 2).sum(axis=0) for end in ("", "_prev"))
    found["probe"] = np.abs(now - before).sum() / (before.sum() + 1e-8)
    moved = GOLDEN["shifts"] - GOLDEN["shifts_prev"]
    found["probe_pos_shifts"] = float(GOLDEN["dx"]) * np.sqrt((moved**2).sum(axis=1).mean())
    return found


def test_metrics_are_the_recorded_ones() -> None:
    watch = monitor()
    assert watch.observe(**arrays("_prev")) == {}
    found = watch.observe(**arrays())
    assert list(found) == list(EXPECTED)
    assert found == pytest.approx(EXPECTED, rel=1e-6)  # recorded from float32 copies of object and positions
    assert found["probe"] == pytest.approx(EXPECTED["probe"], rel=1e-14)
    assert found == pytest.approx(by_definition(), rel=1e-12)
    nothing = watch.observe(**arrays())
    assert set(nothing.values()) == {0.0}


def test_the_snapshot_can_be_saved() -> None:
    watch = monitor()
    given = {name: array.copy() for name, array in arrays("_prev").items()}
    watch.observe(**given)
    for array in given.values():
        array[...] = 0  # the monitor has its own copies
    saved = {name: np.array(array) for name, array in watch.previous.items()}
    assert set(saved) == set(TENSORS) and saved["obja"].shape == (1, 2, 8, 12)
    assert monitor(previous=saved).observe(**arrays()) == watch.observe(**arrays())
    with pytest.raises(CheckpointError, match="obja"):
        monitor(previous=saved, tensors=("objp",))


def test_only_what_is_watched() -> None:
    watch = monitor(tensors=("probe",))
    watch.observe(probe=GOLDEN["probe_prev"])
    assert watch.observe(probe=GOLDEN["probe"]) == {"probe": pytest.approx(EXPECTED["probe"])}
    with pytest.raises(ValueError, match="not given"):
        watch.observe(phase=GOLDEN["objp"])
    assert TENSORS == WATCHED and MONITOR.convert({})["tensors"] == list(TENSORS)


def test_pixels_and_percentiles() -> None:
    """Two halves, of which one changes; positions in unequal pixels."""
    area = (slice(0, 4), slice(0, 4))
    watch = ConvergenceMonitor(area, (2.0, 0.5), ("objp", "probe_pos_shifts"), (50.0, 50.0))
    phase = np.zeros((1, 1, 5, 5))
    phase[..., :2] = 1.0
    watch.observe(phase=phase, positions_px=np.zeros((3, 2)))
    phase[..., :2] = 1.25
    assert watch.observe(phase=phase, positions_px=np.tile([3.0, 16.0], (3, 1))) == {
        "objp_bg": 0.0,
        "objp_fg": 0.25,
        "probe_pos_shifts": pytest.approx(10.0),
    }
    flat = np.ones((1, 1, 5, 5))
    assert watch.observe(phase=flat, positions_px=np.zeros((3, 2)))["objp_fg"] == 0.0


def test_area_stays_inside() -> None:
    assert illuminated_area(np.array([[0, 0], [3, 4]]), (1, 1)) == (slice(0, 3), slice(0, 4))


def test_on_a_device(device: None) -> None:
    import cupy as xp

    watch = monitor()
    watch.observe(**{name: xp.asarray(array) for name, array in arrays("_prev").items()})
    saved = {name: array.get() for name, array in watch.previous.items()}
    again = monitor(previous=saved)
    found = again.observe(**{name: xp.asarray(array) for name, array in arrays().items()})
    assert found == pytest.approx(by_definition(), rel=1e-12)
