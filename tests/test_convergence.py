"""Metrics of the convergence monitor, against recorded ones of another program (golden/ptyrad)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from epoch_records import record
from first_order_problems import WANDERING, done, first_order, records
from problems import small_params

import pypty
from pypty.engine.epochs.convergence import TENSORS, ConvergenceMonitor, illuminated_area
from pypty.engine.epochs.observe import no_better
from pypty.engine.setup.prepare import prepare
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


def test_a_snapshot_of_other_pixels_is_not_compared() -> None:
    """The area that the convergence monitor looks at changes with the windows."""
    table = records(**WANDERING, epoch_max=6, convergence_monitor={"every": 1})
    assert len(table) == 6
    compared = [bool(record.convergence) for record in table]
    assert not all(compared[1:]), "the object was given room"
    moved = [record.convergence["probe_pos_shifts"] for record in table if record.convergence]
    assert all(value < 1.0 for value in moved), "not by what was added at the edges"


def test_other_tensors_can_be_watched_from_now_on(tmp_path: Path) -> None:
    params = first_order(epoch_max=2, convergence_monitor={"every": 1}, output_folder=str(tmp_path))
    pypty.run(params)
    less = {"every": 1, "tensors": ["obja"]}
    result = pypty.run({**params, "resume": True, "epoch_max": 4, "convergence_monitor": less})
    assert len(result.epochs) == 4


def test_only_epochs_since_the_optimizer_was_changed_are_compared() -> None:
    names = ["adam", "adam", "lbfgs", "lbfgs", "adam", "adam", "adam"]
    losses = [9.0, 8.0, 3.0, 2.0, 7.0, 6.0, 5.0]
    table = [
        record(epoch, optimizer=name, loss=loss, validation=None)
        for epoch, (name, loss) in enumerate(zip(names, losses, strict=True))
    ]
    settings: Any = {"stop_patience": 2, "stop_tolerance": 0.0}
    assert no_better(settings, table) == ""


@pytest.mark.parametrize("constant", [0.0, -1e6])
def test_a_stop_does_not_depend_on_the_constant_of_a_loss(constant: float) -> None:
    """The loss of ``ml`` is some -10^6 per pattern: 0.01 % of that is more than all that is still to be gained."""
    values = [1600.0, 1100.0, 1000.0, 995.0, 993.0, 992.0, 991.5, 991.0, 991.0, 991.0, 991.0]
    records = [record(k, validation=value + constant) for k, value in enumerate(values)]
    settings = prepare(small_params(output_folder="", stop_patience=3, validation_fraction=0.1)).settings
    reasons = [no_better(settings, records[:n]) for n in range(1, len(records) + 1)]
    assert not any(reasons[:-1]) and "of its fall" in reasons[-1] and "epoch 7" in reasons[-1]


def test_the_monitor_compares_with_the_start() -> None:
    """The first snapshot is that before the first epoch, as PtyRAD's: with every = 1 each epoch has its metrics."""
    table = records(convergence_monitor={"every": 1}, epoch_max=2)
    assert all(len(record.convergence) == 6 for record in table)
    once = records(convergence_monitor={"every": 2}, epoch_max=2)
    assert once[1].convergence["probe"] > 0.5 * (
        table[0].convergence["probe"] + table[1].convergence["probe"]
    )
    moved = done(convergence_monitor={"every": 2}, epoch_max=2, update_probe_pos=True)
    now, start = moved.state.variables.positions, moved.setup.variables().positions
    wanted = np.sqrt((((now - start) * moved.setup.grid.pixel_size_A) ** 2).sum(axis=1).mean())
    assert moved.state.records[1].convergence["probe_pos_shifts"] == pytest.approx(wanted, rel=1e-5)


def test_the_monitor_outlives_windows_that_are_placed_anew() -> None:
    """It stopped the run: the area that it looks at had other sides than its snapshot."""
    result = pypty.run(
        first_order(
            convergence_monitor={"every": 1},
            epoch_max=4,
            update_probe_pos=True,
            learning_rates={"positions": 1.5},
            dynamically_resize_yx_object=1.0,
        )
    )
    assert len(result.epochs) == 4 and result.obj.shape[0] > 24


def test_the_monitor_takes_the_short_way_around_the_circle() -> None:
    from pypty.engine.epochs.convergence import ConvergenceMonitor

    area = (slice(0, 4), slice(0, 4))
    watch = ConvergenceMonitor(area, (1.0, 1.0), ("objp",))
    phase = np.linspace(-3.1, 3.1, 16).reshape(1, 1, 4, 4)
    watch.observe(phase=phase)
    found = watch.observe(phase=np.angle(np.exp(1j * (phase + 0.1))))
    assert found["objp_bg"] == pytest.approx(0.1) and found["objp_fg"] == pytest.approx(0.1)
