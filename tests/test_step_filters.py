"""Constraints as filters of L-BFGS steps: exact transposes, a symmetric preconditioner, and runs with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import N_PATTERNS, SCAN, small_params, two_slices

import pypty
from pypty.engine.epochs import loop
from pypty.model.parametrization import OBJECT_FORMS, BandLimits, Parametrization
from pypty.model.step_filters import STEP_FILTERS, StepFilter, step_filters
from pypty.optics.filters import REFLECT, REPLICATE, Blur, gaussian_kernel
from pypty.params.schema.projections import PROJECTIONS


def table(**records: Any) -> dict[str, dict[str, Any]]:
    assert PROJECTIONS.problem(records) is None
    return PROJECTIONS.convert(records)


def inner(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b.conj()).sum().real)


def dense(function: Callable[[np.ndarray], np.ndarray], n: int) -> np.ndarray:
    """The matrix of a map of (n, 1, 1) arrays."""
    return np.stack([function(unit[:, None, None])[:, 0, 0] for unit in np.eye(n)], axis=1)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 9), size=st.integers(1, 8), edges=st.sampled_from([REFLECT, REPLICATE]))
def test_blur_is_a_correlation_with_padded_edges(n: int, size: int, edges: str) -> None:
    """Against NumPy's padding; its transpose is the matrix's."""
    blur = Blur(gaussian_kernel(size, 1.3), (-3,), edges)
    front = (size - 1) // 2
    matrix = dense(blur.apply, n)
    for column, unit in zip(matrix.T, np.eye(n), strict=True):
        mode = "edge" if edges == REPLICATE or n == 1 else "reflect"
        padded = np.pad(unit, (front, size - 1 - front), mode=mode)  # type: ignore[call-overload]
        expected = [sum(w * padded[i + t] for t, w in enumerate(blur.kernel)) for i in range(n)]
        np.testing.assert_allclose(column, expected, atol=1e-14)
    np.testing.assert_allclose(dense(blur.adjoint, n), matrix.T, atol=1e-15)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-14)


def test_the_transpose_of_a_blur_is_not_the_blur() -> None:
    blur = Blur(gaussian_kernel(5, 1.0), (-3,), REFLECT)
    assert abs(dense(blur.apply, 7) - dense(blur.adjoint, 7)).max() > 0.05


EVERYTHING = dict.fromkeys(STEP_FILTERS, True)


@settings(max_examples=30, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(1, 7), st.integers(1, 8)),
    name=st.sampled_from(["obj_rblur", "obj_zblur", "kr_filter", "kz_filter"]),
    obj_type=st.sampled_from(["amplitude", "phase", "both"]),
    form=st.sampled_from(OBJECT_FORMS),
    even=st.booleans(),
)
def test_adjoint_identity(shape: tuple[int, ...], name: str, obj_type: str, form: str, even: bool) -> None:
    """<b, G a> = <G^T b, a>, in every form of the object."""
    numbers: dict[str, Any] = {"obj_type": obj_type, "std": 1.1} if "blur" in name else {"obj_type": obj_type}
    if name == "obj_zblur":
        numbers["kernel_size"] = 4 if even else 5
    found = step_filters(table(**{name: numbers}), 0, None)["obj"]
    rng = np.random.default_rng(4)
    full = (2, *shape) if form == "amplitude_phase" else shape
    a, b = rng.normal(size=(2, *full))
    if form == "complex":
        a, b = a + 1j * rng.normal(size=shape), b + 1j * rng.normal(size=shape)
    assert inner(b, found.apply(a, form)) == pytest.approx(
        inner(found.adjoint(b, form), a), rel=1e-12, abs=1e-12
    )
    if form == "amplitude_phase":
        changed = [bool((found.apply(a, form)[i] != a[i]).any()) for i in (0, 1)]
        assert changed[0] or obj_type == "phase" or max(shape[2:]) == 1 or name == "obj_zblur"
        assert not (changed[0] and obj_type == "phase")
        assert not (changed[1] and obj_type == "amplitude")


def test_adjoint_identity_of_all_in_a_row_and_of_scan_and_tilts() -> None:
    rng = np.random.default_rng(5)
    found = step_filters(table(**EVERYTHING), 0, (3, 4))
    assert sorted(found) == ["obj", "positions", "tilts"]
    for block, shape in (
        ("obj", (1, 3, 6, 7)),
        ("positions", (12, 2)),
        ("tilts", (12, 6)),
        ("tilts", (1, 6)),
    ):
        a, b = rng.normal(size=(2, *shape))
        one, other = inner(b, found[block].apply(a)), inner(found[block].adjoint(b), a)
        assert one == pytest.approx(other, rel=1e-12)
    np.testing.assert_array_equal(found["tilts"].apply(a), a)  # one tilt for all
    np.testing.assert_allclose(found["positions"].apply(rng.normal(size=(12, 2))).mean(axis=0), 0, atol=1e-15)
    amplitudes = step_filters(table(obj_rblur={"obj_type": "amplitude"}), 0, None)["obj"]
    assert amplitudes.apply(np.eye(4)[None, None], "phase").trace(axis1=-2, axis2=-1).item() == 4


def test_filters_of_an_epoch() -> None:
    records = table(obj_rblur={"start": 2, "step": 3, "end": 5}, obj_zblur={"std": 0}, objp_postiv=True)
    assert [bool(step_filters(records, epoch, None)) for epoch in range(7)] == [0, 0, 1, 1, 1, 0, 0]
    assert not step_filters(table(tilt_smooth=True), 0, None), "no raster"
    texts = [step_filters(table(obj_rblur={"std": std}), 0, None)["obj"].text for std in (0.4, 0.5)]
    assert texts[0] != texts[1]


@pytest.mark.parametrize("form", OBJECT_FORMS)
def test_damping_and_its_transpose(form: str) -> None:
    """P G and G^T P, with band limits of either kind."""
    rng = np.random.default_rng(6)
    mask = (abs(np.fft.fftfreq(8))[:, None] + abs(np.fft.fftfreq(8)) < 0.4).astype(float)
    filters = step_filters(table(**EVERYTHING), 0, (3, 4))
    for limits in (BandLimits(obj=mask), BandLimits(obj=mask, obj_steps=0.5 * mask)):
        whole = Parametrization(limits=limits, obj=form, filters=filters)
        shape = (2, 1, 3, 8, 8) if form == "amplitude_phase" else (1, 3, 8, 8)
        a, b = ({"obj": rng.normal(size=shape), "positions": rng.normal(size=(12, 2))} for _ in range(2))
        there, back = whole.damp(a), whole.damp_adjoint(b)
        for name in a:
            assert inner(b[name], there[name]) == pytest.approx(inner(back[name], a[name]), rel=1e-12)
        np.testing.assert_allclose(whole.project(there)["obj"], there["obj"], atol=1e-14)


def test_same_numbers_on_a_device(device: None) -> None:
    import cupy

    rng = np.random.default_rng(7)
    found = step_filters(table(**EVERYTHING), 0, (3, 4))
    for block, shape in (("obj", (2, 1, 4, 6, 7)), ("positions", (12, 2)), ("tilts", (12, 6))):
        a = rng.normal(size=shape)
        for act in (StepFilter.apply, StepFilter.adjoint):
            result = act(found[block], cupy.asarray(a), "amplitude_phase")
            assert isinstance(result, cupy.ndarray)
            np.testing.assert_allclose(result.get(), act(found[block], a, "amplitude_phase"), atol=1e-13)


# ---------------------------------------------------------------------------------------------------------------- runs


def resets(log: str) -> list[str]:
    return [line for line in log.splitlines() if "history reset" in line]


def run(folder: Path, **changes: Any) -> tuple[pypty.Result, str]:
    """A run of six epochs, and its log."""
    result = pypty.run(small_params(output_folder=str(folder), epoch_max=6, **changes))
    return result, (folder / "pypty.log").read_text()


@pytest.mark.parametrize("form", ["complex", "amplitude_phase"])
def test_a_filter_leaves_the_history_alone(tmp_path: Path, form: str) -> None:
    """The loss falls at every epoch, and the object is another one than without: it has less at high frequencies."""
    strong = {"obj_rblur": {"std": 1.0}}
    changes = {"obj_parametrization": form, "update_extra_cut": 0.0}
    result, log = run(tmp_path / "with", constraints=strong, **changes)
    plain, _ = run(tmp_path / "without", **changes)
    assert (np.diff(result.loss) < 0).all()
    assert not resets(log)
    high = [high_frequencies(one.obj) for one in (result, plain)]
    assert high[0] < 0.5 * high[1]


def high_frequencies(obj: np.ndarray) -> float:
    """Share of the power of exp(i phase) - 1 beyond half of the Nyquist frequency."""
    power = abs(np.fft.fft2(obj[:, :, 0, 0] - 1)) ** 2
    f = np.hypot(*np.meshgrid(*(np.fft.fftfreq(n) for n in power.shape), indexing="ij"))
    return float(power[f > 0.25].sum() / power.sum())


def test_a_filter_that_begins_or_changes_restarts_the_history(tmp_path: Path) -> None:
    _, log = run(tmp_path, constraints={"obj_rblur": {"start": 2, "end": 4}})
    told = resets(log)
    assert [line.split("epoch ")[1][0] for line in told] == ["2", "4"]
    assert all("parametrisation" in line and "obj_rblur" in line for line in told)


def test_tilts_and_positions_that_follow_their_filters(tmp_path: Path) -> None:
    """Smooth tilts; positions without a common drift."""
    rng = np.random.default_rng(8)
    changes = {
        "tilts": np.zeros((N_PATTERNS, 6)),
        "tilt_mode": 0,
        "update_tilts": True,
        "update_probe_pos": True,
        "positions": small_params()["positions"] + 0.3 * rng.normal(size=(N_PATTERNS, 2)),
        "scan_size": SCAN,
        "epoch_max": 3,
    }
    both = {"tilt_smooth": {"std": 3.0}, "pos_recenter": True}
    smooth, plain = (pypty.run(two_slices(constraints=on, **changes)) for on in (both, {}))
    assert (np.diff(smooth.loss) < 0).all()

    def roughness(result: pypty.Result) -> float:
        maps = result.tilts[:, 2:4].reshape(*SCAN, 2)
        return float(np.diff(maps, axis=0).std() / maps.std())

    assert smooth.tilts.any()
    assert roughness(smooth) < 0.7 * roughness(plain)
    first = pypty.run(two_slices(**{**changes, "epoch_max": 0})).positions
    assert abs((smooth.positions - first).mean(axis=0)).max() < 1e-9
    assert abs((plain.positions - first).mean(axis=0)).max() > 1e-4


def test_preconditioner_is_symmetric(monkeypatch: pytest.MonkeyPatch) -> None:
    """<b, M a> = <M b, a> and <a, M a> >= 0, with a soft edge of the band limits and without."""
    seen = []
    whole = loop.Reconstruction.problem

    def spy(self: Any, now: Any) -> Any:
        seen.append(whole(self, now))
        return seen[-1]

    monkeypatch.setattr(loop.Reconstruction, "problem", spy)
    rng = np.random.default_rng(9)
    for form in OBJECT_FORMS:
        for rolloff in (0.0, 0.2):
            params = two_slices(
                constraints=EVERYTHING,
                obj_parametrization="complex" if form == "phase" else form,
                phase_only_obj=form == "phase",
                smooth_rolloff=rolloff,
                epoch_max=1,
                scan_size=SCAN,
            )
            pypty.run(params)
            known = seen[-1]
            point = known.point()
            assert "obj_rblur" in known.signature.form
            a, b = (
                point.map(lambda array: rng.normal(size=array.shape).astype(array.dtype)) for _ in range(2)
            )
            a, b = (type(a)(known.form.project(vector)) for vector in (a, b))
            forward, back = known.precondition(a), known.precondition(b)
            assert b.dot(forward) == pytest.approx(back.dot(a), rel=1e-9)
            assert a.dot(forward) > 0
