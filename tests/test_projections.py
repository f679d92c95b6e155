"""Constraints between epochs against PtyRAD's numbers, their effects, order and schedule."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pypty.constraints import projections, projections_object, projections_probe
from pypty.constraints.object import amplitude_and_phase, from_amplitude_and_phase
from pypty.constraints.projections import ORDER, Projected, ProjectionContext, acts, apply_projections
from pypty.model.blocks import Variables
from pypty.model.step_filters import STEP_FILTERS
from pypty.optics.grid import Grid
from pypty.optics.propagators import angular_spectrum_phase_rate
from pypty.params.schema.projections import PROJECTIONS

GOLDEN = Path(__file__).parent / "golden" / "ptyrad"
ROUNDING, FLOAT32_MASKS = 1e-12, 1e-7
RASTER = (5, 6)


def table(**records: Any) -> dict[str, dict[str, Any]]:
    """The value of ``constraints`` as the engine gets it."""
    assert PROJECTIONS.problem(records) is None
    return PROJECTIONS.convert(records)


def record(name: str, meta: str) -> dict[str, Any]:
    """A constraint with PtyRAD's numbers, from the first epoch on."""
    given_ = json.loads(meta)
    own = {key: value for key, value in given_.items() if key not in ("start_iter", "step", "end_iter")}
    return table(**{name: {"start": given_["start_iter"] - 1, **own}})[name]


class Case:
    """A golden file."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.arrays = dict(np.load(GOLDEN / f"constraint_{name}.npz", allow_pickle=False))
        self.sets = [key.split("_")[1] for key in self.arrays if key.startswith("params_")]

    def __getitem__(self, key: str) -> np.ndarray:
        return self.arrays[key]

    def numbers(self, index: str) -> dict[str, Any]:
        return record(self.name, str(self.arrays[f"params_{index}"]))


def close(found: np.ndarray, known: np.ndarray, tolerance: float = ROUNDING) -> None:
    np.testing.assert_allclose(found, known, rtol=0, atol=tolerance * np.abs(known).max())


# ---------------------------------------------------------------------------------------------------- PtyRAD's numbers


@pytest.mark.parametrize("name", sorted(projections_object.OF_AMPLITUDE_AND_PHASE))
def test_amplitude_and_phase_as_in_ptyrad(name: str) -> None:
    case = Case(name)
    assert len(case.sets) >= 2
    filled = {"in_obja": np.ones((2, 5, 20, 24)), "in_objp": np.zeros((2, 5, 20, 24))} | case.arrays
    prefix = "intended" if name == "kr_thresh" else "out"  # its inverse cosine transform is wrong
    for index in case.sets:
        found = projections_object.OF_AMPLITUDE_AND_PHASE[name](
            filled["in_obja"], filled["in_objp"], case.numbers(index)
        )
        for array, block in zip(found, ("obja", "objp"), strict=True):
            if f"{prefix}{index}_{block}" in filled:
                tolerance = FLOAT32_MASKS if name in ("kr_filter", "kr_thresh") else ROUNDING
                close(array, case[f"{prefix}{index}_{block}"], tolerance)


def test_probe_masks_as_in_ptyrad() -> None:
    case = Case("probe_mask_k")
    for index in case.sets:
        found = projections_probe.probe_mask_k(case["in_probe"], case.numbers(index))
        close(found, case[f"out{index}_probe"], FLOAT32_MASKS)
    case = Case("probe_mask_r")
    for index in case.sets:
        pixel, wavelength = float(case["in_dx"]), float(case["in_lambd"])
        found = projections_probe.probe_mask_r(
            case["in_probe"], case.numbers(index), (pixel, pixel), wavelength
        )
        close(found, case[f"out{index}_probe"], FLOAT32_MASKS)


def test_probe_power_and_positions_and_tilts_as_in_ptyrad() -> None:
    case = Case("fix_probe_int")
    found = projections_probe.fix_probe_int(case["in_probe"], float(case["in_probe_int_sum"]))
    close(found, case["out0_probe"])
    case = Case("pos_recenter")
    for index in case.sets:
        reference = np.arange(24.0).reshape(12, 2)
        moved = projections.pos_recenter(
            reference + case["in_probe_pos_shifts"], reference, case.numbers(index)
        )
        close(moved - reference, case[f"out{index}_probe_pos_shifts"])
    case = Case("tilt_smooth")
    for index in case.sets:
        tilts = np.random.default_rng(1).normal(size=(30, 6))
        tilts[:, 2:4] = case["in_obj_tilts"]
        found = projections.tilt_smooth(tilts, case.numbers(index), RASTER)
        close(found[:, 2:4], case[f"out{index}_obj_tilts"])
        np.testing.assert_array_equal(np.delete(found, [2, 3], 1), np.delete(tilts, [2, 3], 1))


def context(**changes: Any) -> ProjectionContext:
    known = {"wavelength_A": 0.0250793405, "pixel_size_A": (0.2, 0.2), "scan_size": RASTER}
    known |= {"probe_power": 123.4, "scan_positions": np.zeros((1, 2))}
    return ProjectionContext(**{**known, **changes})


def variables(arrays: dict[str, np.ndarray] | Case, **changes: Any) -> Variables:
    obj = arrays["in_obja"] * np.exp(1j * arrays["in_objp"])
    blocks = {"obj": obj, "probe": arrays["in_probe"], "positions": np.zeros((30, 2))}
    return Variables(**{**blocks, "slice_distances": np.array([6.0]), **changes})


def carrier(case: Case, before: np.ndarray, after: np.ndarray) -> complex:
    """exp(i k z): PtyRAD's propagator has this phase, ours is relative to a plane wave."""
    overlap = np.vdot(before, after)
    return complex(overlap / abs(overlap))


def test_z_recenter_as_in_ptyrad() -> None:
    case = Case("obj_z_recenter")
    for index in case.sets:
        done = apply_projections(variables(case), {"obj_z_recenter": case.numbers(index)}, 0, context())
        assert done.changed == ("obj_z_recenter",)
        known = case[f"out{index}_obja"] * np.exp(1j * case[f"out{index}_objp"])
        close(done.variables.obj, known, FLOAT32_MASKS)
        probe = case[f"out{index}_probe"]
        close(done.variables.probe * carrier(case, done.variables.probe, probe), probe, FLOAT32_MASKS)


def test_orthogonal_modes_as_in_ptyrad() -> None:
    case = Case("ortho_pmode")
    start = variables({"in_obja": np.ones((1, 1, 8, 8)), "in_objp": np.zeros((1, 1, 8, 8)), **case.arrays})
    done = apply_projections(start, table(ortho_pmode=True), 0, context())
    assert done.changed == ()
    assert done.rotation is not None
    found, known = done.variables.probe, case["out0_probe"]
    close((abs(found) ** 2).sum(axis=(1, 2)), (abs(known) ** 2).sum(axis=(1, 2)))
    close((abs(found) ** 2).sum(axis=0), (abs(known) ** 2).sum(axis=0))
    rows = found.reshape(4, -1)
    gram = rows @ rows.conj().T
    close(gram, np.diag(gram.diagonal()))
    close(abs(np.einsum("kyx,kyx->k", found.conj(), known)), (abs(known) ** 2).sum(axis=(1, 2)), 1e-9)


def test_schedule_as_in_ptyrad() -> None:
    """PtyRAD counts from 1."""
    case = Case("schedule")
    applied = case["applied_iter_1_to_40"]
    for (start, step, end), known in zip(json.loads(str(case["start_step_end"])), applied, strict=True):
        if start is None:
            assert not known.any()
            continue
        ours = {"start": start - 1, "step": step, "end": None if end is None else end - 1}
        numbers = table(objp_postiv=ours)["objp_postiv"]
        assert [acts(numbers, epoch) for epoch in range(40)] == known.tolist()


def test_all_one_after_the_other_as_in_ptyrad() -> None:
    """In its order, whatever the order of the dict."""
    case = Case("all_chained")
    given_ = json.loads(str(case["params"]))
    assert given_.pop("kr_thresh")["start_iter"] is None
    records = {name: record(name, json.dumps(given_[name])) for name in reversed(given_)}
    tilts = np.zeros((30, 6))
    tilts[:, 2:4] = case["in_obj_tilts"]
    shifts = case["in_probe_pos_shifts"]
    done = apply_projections(
        variables(case, tilts=tilts, positions=shifts),
        records,
        0,
        context(probe_power=float(case["in_probe_int_sum"])),
    )
    obj = case["out_obja"] * np.exp(1j * case["out_objp"])
    close(done.variables.obj, obj, FLOAT32_MASKS)
    close(
        (abs(done.variables.probe) ** 2).sum(axis=0), (abs(case["out_probe"]) ** 2).sum(axis=0), FLOAT32_MASKS
    )
    close(done.variables.positions, case["out_probe_pos_shifts"])
    close(done.variables.tilts[:, 2:4], case["out_obj_tilts"])
    assert len(done.changed) > 10
    assert list(done.changed) == [name for name in ORDER if name in done.changed]


# ------------------------------------------------------------------------------------------------------- what they do


def test_order_is_that_of_the_parameter() -> None:
    assert [name for name, _ in PROJECTIONS.records] == list(ORDER)
    assert [name for name in ORDER if name in STEP_FILTERS] == list(STEP_FILTERS)


def start(seed: int = 0, n_modes: int = 2, n_slices: int = 3, side: int = 9, **changes: Any) -> Variables:
    rng = np.random.default_rng(seed)
    shape = (n_modes, n_slices, side, side + 1)
    obj = (1 + 0.1 * rng.normal(size=shape)) * np.exp(0.4j * rng.normal(size=shape))
    probe = rng.normal(size=(n_modes, 8, 8)) + 1j * rng.normal(size=(n_modes, 8, 8))
    blocks = {"obj": obj, "probe": probe, "positions": rng.normal(size=(30, 2))}
    blocks |= {"slice_distances": np.array([5.0]), "tilts": rng.normal(size=(30, 6))}
    return Variables(**{**blocks, **changes})


NOTHING: dict[str, dict[str, Any]] = {
    "obj_rblur": {"std": 0},
    "obj_zblur": {"std": 0},
    "kr_thresh": {"thresh": 1},
    "kz_filter": {"alpha": 0, "beta": 0, "obj_type": "phase"},
    "kr_filter": {"radius": 10.0},
    "complex_ratio": {"alpha1": 0},
    "mirrored_amp": {"relax": 1},
    "obj_z_recenter": {"scale": 0},
    "obja_thresh": {"relax": 1},
    "objp_postiv": {"relax": 1},
    "pos_recenter": {"relax": 1},
    "tilt_smooth": {"std": 0},
    "probe_mask_k": {"radius": 20.0, "power_thresh": 1},
    "probe_mask_r": {"radius": 1e3, "power_thresh": 1},
}
"""Numbers with which a constraint changes nothing."""
OF = {"probe_mask_k": "probe", "probe_mask_r": "probe", "fix_probe_int": "probe", "ortho_pmode": "probe"}
OF |= {"pos_recenter": "positions", "tilt_smooth": "tilts"}


def modes_in_order(point: Variables) -> Variables:
    power = (abs(point.probe) ** 2).sum(axis=(1, 2))
    return point.replace({"probe": point.probe[np.argsort(-power)]})


@pytest.mark.parametrize("name", ORDER)
def test_each_changes_its_own_and_may_change_nothing(name: str) -> None:
    point = modes_in_order(start())
    done = apply_projections(point, table(**{name: True}), 0, context())
    own = {OF.get(name, "obj")} | ({"probe"} if name == "obj_z_recenter" else set())
    assert {block for block in point.present if done.variables.block(block) is not point.block(block)} == own
    assert done.changed == (() if name == "ortho_pmode" else (name,))
    again = apply_projections(point, table(**{name: True}), 0, context(), skip=(name,))
    assert again == Projected(point)
    if name in NOTHING:
        done = apply_projections(point, table(**{name: NOTHING[name]}), 0, context())
        assert done.changed == ()
        assert done.variables is point


@pytest.mark.parametrize(
    "name", ["ortho_pmode", "fix_probe_int", "obja_thresh", "objp_postiv", "pos_recenter"]
)
def test_projections_are_projections(name: str) -> None:
    """A second time they find nothing to do."""
    known = context(scan_positions=np.zeros((30, 2)))
    once = apply_projections(start(), table(**{name: True}), 0, known)
    twice = apply_projections(once.variables, table(**{name: True}), 0, known)
    assert once.changed or once.rotation is not None
    assert twice == Projected(once.variables)


def test_only_the_epochs_of_the_schedule() -> None:
    records = table(objp_postiv={"start": 2, "step": 3, "end": 8})
    acted = [bool(apply_projections(start(), records, epoch, context()).changed) for epoch in range(12)]
    assert [epoch for epoch in range(12) if acted[epoch]] == [2, 5]


def test_what_each_leaves_behind() -> None:
    def after(point: Variables = start(), **records: Any) -> Variables:  # noqa: B008 - read only
        return apply_projections(point, table(**records), 0, context()).variables

    obj = after(obja_thresh={"thresh": (0.99, 1.01)}).obj
    assert abs(abs(obj) - 1).max() < 0.0100001
    assert np.angle(after(objp_postiv=True).obj).min() > -1e-12
    assert np.angle(after(objp_postiv={"mode": "subtract_min"}).obj).min() == pytest.approx(0, abs=1e-12)
    assert (abs(after(fix_probe_int=True).probe) ** 2).sum() == pytest.approx(123.4)
    assert after(pos_recenter=True).positions.mean(axis=0) == pytest.approx(0, abs=1e-14)
    drifted = apply_projections(
        start(), table(pos_recenter=True), 0, context(scan_positions=start().positions - [1.0, 2.0])
    )
    np.testing.assert_allclose(drifted.variables.positions, start().positions - [1.0, 2.0], atol=1e-14)
    mirrored = after(mirrored_amp={"relax": 0, "scale": 0.5, "power": 1.0}).obj
    np.testing.assert_allclose(abs(mirrored), 1 - 0.5 * np.maximum(np.angle(start().obj), 0), atol=1e-12)
    kept = after(kr_thresh={"thresh": 1e-6, "obj_type": "phase"}).obj  # one coefficient of one layer
    assert np.count_nonzero(abs(np.angle(kept)).max(axis=(2, 3)) > 1e-12) == 1
    blurred = after(obj_rblur={"std": 2.0, "obj_type": "phase"}).obj
    np.testing.assert_allclose(abs(blurred), abs(start().obj), atol=1e-12)
    assert np.angle(blurred).std() < 0.5 * np.angle(start().obj).std()


def test_a_column_comes_to_the_middle_and_the_probe_follows() -> None:
    """A slice at the top of five; the wave that meets it is the same before and after."""
    phase = np.zeros((1, 5, 8, 8))
    phase[0, 1, 2:5, 3:6] = 0.3
    point = start(n_modes=1, obj=np.exp(1j * phase), slice_distances=np.array([4.0, 6.0, 5.0, 5.0]))
    done = apply_projections(point, table(obj_z_recenter={"thresh": None}), 0, context())
    moved = np.angle(done.variables.obj)
    np.testing.assert_allclose(moved[0, 2], phase[0, 1], atol=1e-7)
    np.testing.assert_allclose(moved[0, [0, 1, 3, 4]], 0, atol=1e-7)
    rate = angular_spectrum_phase_rate(Grid((8, 8), (0.2, 0.2), 0.0250793405))
    forward = projections_probe.propagated(done.variables.probe, rate, 5.0)
    np.testing.assert_allclose(forward, point.probe, atol=1e-5)


def test_all_modes_are_masked_with_a_threshold_of_one() -> None:
    """No sum of powers is above 1."""
    probe = start(n_modes=3).probe
    for found in (
        projections_probe.probe_mask_k(probe, table(probe_mask_k={"power_thresh": 1})["probe_mask_k"]),
        projections_probe.probe_mask_r(
            probe, table(probe_mask_r={"power_thresh": 1, "radius": 0.4})["probe_mask_r"], (0.2, 0.2), 0.025
        ),
    ):
        powers = sorted((abs(found) ** 2).sum(axis=(1, 2)))
        assert (np.array(powers) < 0.9 * np.sort((abs(probe) ** 2).sum(axis=(1, 2)))).all()


def test_every_subscan_has_a_probe_of_its_own() -> None:
    first, second = start(seed=1).probe, start(seed=2).probe
    numbers = table(probe_mask_k=True, probe_mask_r=True)
    both = np.stack([first, second])
    for change in (
        lambda p: projections_probe.probe_mask_k(p, numbers["probe_mask_k"]),
        lambda p: projections_probe.probe_mask_r(p, numbers["probe_mask_r"], (0.2, 0.2), 0.025),
    ):
        np.testing.assert_allclose(change(both), np.stack([change(first), change(second)]), atol=1e-14)


# ------------------------------------------------------------------------------------------------------- thick phases


def hill(height: float, side: int = 40) -> np.ndarray:
    """(1, 1, side, side) phase of an atom column on vacuum."""
    t = np.arange(side) - side // 2
    return height * np.exp(-(t[:, None] ** 2 + t[None, :] ** 2) / (2 * 6.0**2))[None, None]


def test_thick_phases_go_on_beyond_pi() -> None:
    phase = np.concatenate([hill(10.0), hill(1.0), hill(-5.0)], axis=1)
    amplitude, found = amplitude_and_phase(0.9 * np.exp(1j * phase))
    np.testing.assert_allclose(found, phase, atol=1e-12)
    np.testing.assert_allclose(amplitude, 0.9, atol=1e-12)
    single = np.exp(1j * phase).astype(np.complex64)
    assert amplitude_and_phase(single)[1].dtype == np.float32
    assert from_amplitude_and_phase(*amplitude_and_phase(single), single.dtype).dtype == np.complex64


def test_positivity_does_not_take_a_thick_column_for_a_negative_one() -> None:
    obj = np.exp(1j * hill(5.0))
    point = start(obj=obj)
    assert apply_projections(point, table(objp_postiv=True), 0, context()).changed == ()
    blurred = apply_projections(point, table(obj_rblur={"std": 1.0}), 0, context()).variables.obj
    assert np.angle(blurred * obj.conj()).max() < 0.2, "no ramp where the phase is wrapped"


# ------------------------------------------------------------------------------------------------- shapes and devices


@settings(max_examples=25, deadline=None)
@given(
    n_modes=st.integers(1, 3),
    n_slices=st.integers(1, 4),
    side=st.integers(1, 9),
    single=st.booleans(),
)
def test_any_shape_and_precision(n_modes: int, n_slices: int, side: int, single: bool) -> None:
    point = start(3, n_modes, n_slices, side)
    if single:
        blocks = {name: point.block(name).astype(np.complex64) for name in ("obj", "probe")}
        point = point.replace(blocks)
    done = apply_projections(point, table(**dict.fromkeys(ORDER, True)), 0, context()).variables
    for block in point.present:
        old, new = point.block(block), done.block(block)
        assert (new.shape, new.dtype) == (old.shape, old.dtype)
        assert np.isfinite(new).all()


def test_vacuum_and_darkness_stay_finite() -> None:
    for obj in (np.ones((1, 2, 6, 6), complex), np.zeros((1, 2, 6, 6), complex)):
        done = apply_projections(start(obj=obj), table(**dict.fromkeys(ORDER, True)), 0, context())
        assert np.isfinite(done.variables.obj).all()


def test_same_numbers_on_a_device(device: None) -> None:
    import cupy

    point, records = start(), table(**dict.fromkeys(ORDER, True))
    obj = point.obj.copy()
    obj[0, 1] = np.exp(1j * hill(6.0, 10)[0, 0, :9])  # to be unwrapped
    point = point.replace({"obj": obj})
    there = point.replace({name: cupy.asarray(point.block(name)) for name in point.present})
    on_host, on_device = (apply_projections(p, records, 0, context()) for p in (point, there))
    assert on_host.changed == on_device.changed
    for name in point.present:
        found = on_device.variables.block(name)
        assert isinstance(found, cupy.ndarray)
        close(found.get(), on_host.variables.block(name), 1e-10)


def test_changes_beyond_rounding_are_those_that_count() -> None:
    point = start()
    assert not projections.differs(point.obj, point.obj * (1 + 1e-12))
    assert projections.differs(point.obj, point.obj * (1 + 1e-6))
