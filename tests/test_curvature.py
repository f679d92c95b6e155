"""The diagonal Gauss-Newton curvature against loops, and against derivatives of the patterns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import directional_derivative, random_complex, random_probe, small_problem
from problems import N_PATTERNS, every_block, smooth_object

import pypty
from pypty.backend.array import select
from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.epochs.state import State
from pypty.engine.setup.prepare import prepare
from pypty.model.blocks import BLOCKS as EVERY_BLOCK
from pypty.model.blocks import Variables, to_public
from pypty.objective.curvature import REGULARISATION, Curvature
from pypty.optics.grid import Grid
from pypty.optics.wavelength import wavelength_A

BACKEND = select("cpu", "double")
GRID = Grid((6, 7), (0.31, 0.24), wavelength_A(80))
N_PIXELS = 6 * 7
CORNERS = np.array([[0, 0], [1, 2], [1, 2], [5, 6], [0, 6]])
MEAN = np.random.default_rng(0).exponential(10.0, (6, 7))
BLOCKS = ("obj", "probe", "positions", "slice_distances")


def make_variables(slices: int = 3, n_distances: int = 2) -> Variables:
    """The object is larger than the scan at the bottom and right: some pixels are never seen."""
    rng = np.random.default_rng(1)
    return Variables(
        obj=random_complex(rng, (2, slices, 14, 16)),
        probe=random_complex(rng, (3, 6, 7)),
        positions=CORNERS + rng.uniform(-0.3, 0.3, CORNERS.shape),
        slice_distances=rng.uniform(10, 20, n_distances),
    )


def diagonal(variables: Variables, scale: float = 1.0) -> dict[str, np.ndarray]:
    return Curvature(
        backend=BACKEND,
        grid=GRID,
        all_crop_origins=CORNERS,
        indices=np.arange(len(CORNERS)),
        mean_pattern=MEAN,
        scale=scale,
    ).diagonal(variables, BLOCKS)


@pytest.mark.parametrize("slices", [1, 3])
def test_object(slices: int):
    """2 n^2 sum |P|^2 over the windows that see a pixel and the probe modes, times the slices; then raised."""
    variables = make_variables(slices)
    illumination = np.zeros((14, 16))
    for y, x in CORNERS:
        for mode in variables.probe:
            illumination[y : y + 6, x : x + 7] += np.abs(mode) ** 2
    expected = 2 * N_PIXELS * slices * (illumination + REGULARISATION * illumination.max())
    assert (illumination == 0).any()
    found = diagonal(variables)["obj"]
    assert found.shape == (1, 1, 14, 16)
    np.testing.assert_allclose(found[0, 0], expected, rtol=1e-10)


def test_probe():
    """2 n^2 sum |O|^2 over windows and object modes, O the product of the slices."""
    variables = make_variables()
    seen = np.zeros((6, 7))
    for y, x in CORNERS:
        for mode in variables.obj:
            transmission = np.ones((6, 7), complex)
            for plane in mode:
                transmission *= plane[y : y + 6, x : x + 7]
            seen += np.abs(transmission) ** 2
    expected = 2 * N_PIXELS * (seen + REGULARISATION * seen.max())
    found = diagonal(variables)["probe"]
    assert found.shape == (1, 6, 7)
    np.testing.assert_allclose(found[0], expected, rtol=1e-10)


def test_positions():
    """2 sum over q and modes of |2 pi f P^|^2 for each axis."""
    variables = make_variables()
    expected = np.zeros(2)
    for mode in variables.probe:
        power = np.abs(np.fft.fft2(mode)) ** 2
        for i, j in np.ndindex(6, 7):
            f = (np.fft.fftfreq(6)[i], np.fft.fftfreq(7)[j])
            expected += [2 * (2 * np.pi * f[axis]) ** 2 * power[i, j] for axis in range(2)]
    found = diagonal(variables)["positions"]
    assert found.shape == (1, 2)
    np.testing.assert_allclose(found[0], expected, rtol=1e-10)


@pytest.mark.parametrize(("slices", "n_distances", "repeats"), [(3, 2, 1), (3, 1, 4), (5, 1, 16), (2, 1, 1)])
def test_slice_distances(slices: int, n_distances: int, repeats: int):
    """2 N sum (pi lambda q^2)^2 <I>; a common distance moves every gap, so that the square of their number counts."""
    rate = np.pi * GRID.wavelength * GRID.q2
    expected = 2 * len(CORNERS) * repeats * (rate**2 * MEAN).sum()
    found = diagonal(make_variables(slices, n_distances))["slice_distances"]
    np.testing.assert_allclose(found, [expected], rtol=1e-10)


def test_slice_distances_of_images():
    """A mean image says nothing about frequencies: there the probe's own spectrum counts, with a gain of 1."""
    variables = make_variables(3, 2)
    spectrum = sum(np.abs(np.fft.fft2(mode)) ** 2 for mode in variables.probe) / N_PIXELS
    rate = np.pi * GRID.wavelength * GRID.q2
    found = Curvature(
        backend=BACKEND,
        grid=GRID,
        all_crop_origins=CORNERS,
        indices=np.arange(len(CORNERS)),
        mean_pattern=MEAN,
        near_field=True,
    ).diagonal(variables, ["slice_distances"])
    expected = 2 * len(CORNERS) * (rate**2 * spectrum).sum()
    np.testing.assert_allclose(found["slice_distances"], [expected], rtol=1e-10)


def test_scale_multiplies_everything():
    """loss_weight and the noise model act on all blocks alike."""
    variables = make_variables()
    plain, scaled = diagonal(variables), diagonal(variables, 0.37)
    assert set(plain) == set(BLOCKS)
    for block in BLOCKS:
        np.testing.assert_allclose(scaled[block], 0.37 * plain[block], rtol=1e-12)


def test_only_named_blocks():
    found = Curvature(
        backend=BACKEND,
        grid=GRID,
        all_crop_origins=CORNERS,
        indices=np.arange(len(CORNERS)),
        mean_pattern=MEAN,
    ).diagonal(make_variables(), ["probe"])
    assert set(found) == {"probe"}


def every_variable(kind: str) -> Variables:
    """All blocks that there are. ``kind``: rows for each pattern, rows for all, or several probes."""
    variables = make_variables()
    rng = np.random.default_rng(2)
    rows = 1 if kind == "shared rows" else len(CORNERS)
    blocks = {
        "tilts": rng.normal(0, 1e-3, (rows, 6)),
        "aberrations_array": rng.normal(0, 10, (2, 8)),
        "static_background": rng.uniform(0, 1, (6, 7)),
        "beam_current": rng.uniform(0.8, 1.2, len(CORNERS)),
        "detector_gains": rng.uniform(0.8, 1.2, (2, 2)),
        "detector_blur_std": np.array([0.0 if kind == "shared rows" else 0.6]),
    }
    if kind == "shared rows":
        blocks["positions"] = variables.positions[:1]
    if kind == "several probes":
        blocks["probe"] = random_complex(rng, (2, 3, 6, 7))
    return variables.replace(blocks)


@pytest.mark.parametrize("near_field", [False, True])
@pytest.mark.parametrize("precision", ["double", "single"])
@pytest.mark.parametrize(
    "kind",
    [
        "random",
        "one pixel",
        "one frequency",
        "no counts",
        "one window",
        "shared rows",
        "several probes",
        "no tilt acts",
        "no distance",
    ],
)
def test_positive_everywhere(kind: str, precision: str, near_field: bool):
    """The optimiser divides by it. Also for a probe that is a point or a plane wave, for pixels that no window
    sees (the convolution by FFT leaves rounding noise there), and without a mean pattern."""
    backend = select("cpu", precision)
    variables = every_variable(kind)
    crop_origins, mean = CORNERS, MEAN
    if kind == "one pixel":
        probe = np.zeros((1, 6, 7), complex)
        probe[0, 3, 3] = 30.0
        variables = variables.replace({"probe": probe})
    elif kind == "one frequency":
        variables = variables.replace({"probe": np.ones((1, 6, 7), complex)})
    elif kind == "no counts":
        mean = np.zeros((6, 7))
    elif kind == "one window":
        crop_origins = CORNERS[:1]
    elif kind == "no distance":
        variables = variables.replace({"slice_distances": np.zeros(2)})
    acting = (False,) * 3 if kind == "no tilt acts" else (True,) * 3
    variables = variables.replace(
        {name: variables.block(name).astype(backend.complex) for name in ("obj", "probe")}
    )
    curvature = Curvature(
        backend=backend,
        grid=GRID,
        all_crop_origins=crop_origins,
        indices=np.arange(len(crop_origins)),
        mean_pattern=mean,
        near_field=near_field,
        acting_tilts=acting,
        defocus_A=20.0,
    )
    found = curvature.diagonal(variables, EVERY_BLOCK)
    assert set(found) == set(EVERY_BLOCK)
    for block, values in found.items():
        assert np.isfinite(values).all(), block
        assert (values > 0).all(), block
        np.broadcast_to(values, variables.block(block).shape)
    assert found["obj"].dtype == found["probe"].dtype == backend.real


def second_derivatives(params: dict, block: str, index: tuple[int, ...]) -> list[float]:
    """d2L/du2 of one pixel, along its real and its imaginary part, from the gradient."""
    value = params[block]
    found = []
    for direction in (1, 1j):
        change = np.zeros_like(value)
        change[index] = direction

        def slope(t: float, change: np.ndarray = change, direction: complex = direction) -> float:
            gradient = pypty.evaluate({**params, block: value + t * change}).gradients[block][index]
            return float((gradient * np.conj(direction)).real)

        found.append(directional_derivative(slope, 1e-5))
    return found


@pytest.mark.parametrize("block", ["obj", "probe"])
def test_bounds_the_curvature_of_the_loss(block: str):
    """At a perfect fit the second derivative of the amplitude loss is the Gauss-Newton one. The diagonal (before
    it is raised) bounds it for one slice, and the mean over real and imaginary part reaches half of it."""
    params = small_problem(41, window=(8, 9), slices=1, damping_cutoff_multislice=2.0)
    params["dataset"] = pypty.simulate(params)
    setup_grid = Grid((8, 9), (0.31, 0.26), wavelength_A(80))
    crop_origins = np.round(params["positions"]).astype(int)
    variables = Variables(
        obj=params["obj"].transpose(3, 2, 0, 1),
        probe=params["probe"].transpose(2, 0, 1),
        positions=params["positions"],
        slice_distances=np.ones(1),
    )
    mean = params["dataset"].mean(axis=0)
    raised = Curvature(
        backend=BACKEND,
        grid=setup_grid,
        all_crop_origins=crop_origins,
        indices=np.arange(len(crop_origins)),
        mean_pattern=mean,
    ).diagonal(variables, [block])[block]
    # undo the rise: values are d + REGULARISATION max(d)
    plain = raised.reshape(raised.shape[-2:]) - raised.max() * REGULARISATION / (1 + REGULARISATION)
    rng = np.random.default_rng(6)
    bright = np.argwhere(plain > 0.3 * plain.max())
    for y, x in bright[rng.choice(len(bright), 4, replace=False)]:
        index = (y, x, 0, 1) if block == "obj" else (y, x, 1)
        found = second_derivatives(params, block, index)
        assert max(found) <= 1.02 * plain[y, x]
        assert np.mean(found) > 0.1 * plain[y, x]


def test_tilts_that_do_not_act_get_the_largest():
    """Their gradient is zero; they must not decide the step of the others."""
    variables = every_variable("random")
    found = {
        acting: Curvature(
            backend=BACKEND,
            grid=GRID,
            all_crop_origins=CORNERS,
            indices=np.arange(len(CORNERS)),
            mean_pattern=MEAN,
            acting_tilts=acting,
        ).diagonal(variables, ["tilts"])
        for acting in ((True, True, True), (True, False, False), (False, False, True))
    }
    whole = found[True, True, True]["tilts"][0]
    np.testing.assert_allclose(whole[:2], whole[4:])
    for acting, columns in (((True, False, False), [0, 1]), ((False, False, True), [4, 5])):
        part = found[acting]["tilts"][0]
        np.testing.assert_allclose(part[columns], whole[columns])
        np.testing.assert_allclose(np.delete(part, columns), max(part[columns]))


# --------------------------------------------------------------------------------------------------------------------
# Against the Gauss-Newton diagonal itself, 2 sum over patterns of (d sqrt(I)/du)^2, by finite differences

DIFFERENCE = {
    "obj": 1e-5,
    "probe": 1e-6,
    "positions": 1e-4,
    "slice_distances": 1e-2,
    "tilts": 1e-6,
    "aberrations_array": 1e-2,
    "static_background": 1e-4,
    "beam_current": 1e-4,
    "detector_blur_std": 1e-4,
    "detector_gains": 1e-4,
}


def gauss_newton(params: dict[str, Any], block: str, index: tuple[int, ...]) -> float:
    """Of one number; of a complex one the mean of its real and its imaginary part."""
    value = np.asarray(params[block])
    value = value.astype(complex if value.dtype.kind == "c" else float)
    step, found = DIFFERENCE[block], []
    for direction in (1, 1j) if value.dtype.kind == "c" else (1,):
        amplitudes = []
        for sign in (1, -1):
            moved = np.atleast_1d(value.copy())
            moved[index] += sign * step * direction
            changed = moved if value.shape else float(moved[0])
            amplitudes.append(np.sqrt(np.maximum(pypty.simulate({**params, block: changed}), 0)))
        found.append(2 * float(((amplitudes[0] - amplitudes[1]) ** 2).sum()) / (2 * step) ** 2)
    return float(np.mean(found))


def ratios(params: dict[str, Any], block: str, columns: tuple[int, ...] = ()) -> np.ndarray:
    """The diagonal that the optimiser uses over the Gauss-Newton one, at a few numbers of a block.

    Parameters
    ----------
    columns : only these, of tilts
    """
    params = {**params, "skip_preprocessing": True, "output_folder": ""}
    params["dataset"] = np.maximum(pypty.simulate(params), 0)
    setup = prepare(params)
    variables = setup.variables()
    problem = Reconstruction(setup, State(variables=variables, epoch=0)).problem(setup.settings.at(0))
    assert block in problem.blocks
    diagonal = problem.curvature.diagonal(variables, problem.blocks)[block]
    setup.close()
    whole = to_public(block, np.broadcast_to(diagonal, variables.block(block).shape))
    candidates = np.argwhere(whole > 0.3 * whole.max()) if block in ("obj", "probe") else np.argwhere(whole)
    if columns:
        candidates = candidates[np.isin(candidates[:, 1], columns)]
    chosen = np.random.default_rng(0).permutation(len(candidates))[:6]
    return np.array([whole[i] / gauss_newton(params, block, i) for i in map(tuple, candidates[chosen])])


def strong_scatterer(slices: int, **changes: Any) -> dict[str, Any]:
    """One mode that interferes with itself everywhere: the bounds behind the diagonal are nearly reached then."""
    params = small_problem(
        30, slices=slices, probe_modes=1, object_modes=1, damping_cutoff_multislice=1.6, **changes
    )
    params["obj"] = np.exp(4j * np.angle(params["obj"]))
    if changes.get("recon_type") == "near_field":
        params["probe"] = params["probe"] * np.sqrt(np.prod(params["probe"].shape[:2]))
    return params


RNG = np.random.default_rng(8)
TILT_ROWS = RNG.normal(0, 1e-3, (6, 6))
NEAR = {"recon_type": "near_field", "defocus_array": np.array([-40.0, 25.0, 10.0, 60.0, 110.0, -15.0])}
SUBSCANS = {
    "probe": np.stack(
        [random_probe(np.random.default_rng(s), (16, 20), 1, 2000.0) for s in (5, 6, 7)], axis=3
    ),
    "probe_marker": np.array([1, 0, 0, 1, 2, 1]),
}
ABERRATIONS = {
    "aberrations_array": RNG.normal(0, 1, (3, 8)) * np.array([40, 30, 30, 2e3, 2e3, 2e3, 2e3, 2e5]),
    "aberration_marker": np.array([2, 0, 1, 1, 0, 2]),
    "update_aberrations_array": True,
}
TILTS = {"tilts": TILT_ROWS, "update_tilts": True}
ONE_TILT = {**TILTS, "tilts": TILT_ROWS[:1]}
ONE_DISTANCE = {"slice_distances": np.array([20.0])}
CURRENT = {"beam_current": RNG.uniform(0.7, 1.3, 6), "update_beam_current": True}
GAINS = {"detector_gains": RNG.uniform(0.8, 1.2, (2, 2)), "update_detector_gains": True}
BACKGROUND = {"static_background": RNG.uniform(2, 4, (16, 20)), "update_static_background": True}
ONE_MORE = {"propmethod": "better_multislice"}
COMPARED = [
    pytest.param(block, slices, (), changes, low, high, id=f"{block}: {name}")
    for name, block, slices, changes, low, high in (
        ("far field", "obj", 1, {}, 1, 4),
        ("far field", "probe", 1, {}, 1, 4),
        ("far field", "positions", 1, {}, 1, 4),
        ("three slices", "obj", 3, {}, 1, 20),
        ("near field", "obj", 1, NEAR, 1, 4),
        ("near field", "probe", 1, NEAR, 1, 4),
        ("near field", "positions", 1, NEAR, 1, 4),
        ("one for all", "positions", 1, {**NEAR, "positions": [[3.2, 1.7]]}, 1, 4),
        ("several probes", "probe", 1, SUBSCANS, 0.7, 8),
        ("several probes", "obj", 1, SUBSCANS, 0.7, 8),
        ("far field", "slice_distances", 3, {}, 0.4, 15),
        ("one for all", "slice_distances", 3, ONE_DISTANCE, 0.4, 15),
        ("near field", "slice_distances", 2, NEAR, 0.4, 15),
        ("fourth order", "slice_distances", 2, {**ONE_MORE, **ONE_DISTANCE}, 0.4, 15),
        ("one slice", "slice_distances", 1, {**ONE_MORE, **ONE_DISTANCE}, 0.4, 30),
        ("far field", "aberrations_array", 1, ABERRATIONS, 1, 8),
        ("near field", "aberrations_array", 1, {**ABERRATIONS, **NEAR}, 1, 8),
        ("far field", "beam_current", 1, CURRENT, 0.7, 1.5),
        ("near field", "beam_current", 1, {**CURRENT, **NEAR}, 0.7, 1.5),
        ("far field", "static_background", 1, BACKGROUND, 0.99, 6),
        ("far field", "detector_gains", 1, GAINS, 0.7, 1.5),
        ("near field", "detector_gains", 1, {**GAINS, **NEAR}, 0.7, 1.5),
        ("wide", "detector_blur_std", 1, {"detector_blur_std": 2.0}, 0.4, 3),
        ("half a pixel", "detector_blur_std", 1, {"detector_blur_std": 0.5}, 0.4, 3),
        ("near field", "detector_blur_std", 1, {"detector_blur_std": 0.8, **NEAR}, 0.4, 3),
    )
] + [
    pytest.param("tilts", slices, columns, {**changes, "tilt_mode": mode}, low, high, id=f"tilts: {name}")
    for name, slices, mode, columns, changes, low, high in (
        ("before", 1, 2, (0, 1), TILTS, 1, 4),
        ("before, one for all", 1, 2, (0, 1), ONE_TILT, 1, 4),
        ("after", 1, 1, (4, 5), TILTS, 1, 4),
        ("after, one for all", 1, 1, (4, 5), ONE_TILT, 1, 4),
        ("inside", 3, 0, (2, 3), TILTS, 0.4, 15),
        ("inside, one for all", 3, 0, (2, 3), ONE_TILT, 0.4, 15),
        ("inside, one distance", 3, 0, (2, 3), {**TILTS, **ONE_DISTANCE}, 0.4, 15),
        ("inside, fourth order", 1, 0, (2, 3), {**TILTS, **ONE_MORE}, 0.4, 15),
        ("inside, near field", 2, 0, (2, 3), {**TILTS, **NEAR}, 0.4, 20),
        ("behind, near field", 1, 0, (2, 3), {**TILTS, **NEAR, "defocus_array": [60.0]}, 0.4, 15),
    )
]


@pytest.mark.parametrize(("block", "slices", "columns", "changes", "low", "high"), COMPARED)
def test_order_of_magnitude(
    block: str, slices: int, columns: tuple[int, ...], changes: dict[str, Any], low: float, high: float
):
    """Not much too small, or steps are too long; not much too large either."""
    params = strong_scatterer(slices, **changes)
    params["update_detector_blur_std"] = "detector_blur_std" in changes
    found = ratios(params, block, columns)
    assert low < found.min()
    assert found.max() < high


def weak_scatterer(**changes: Any) -> dict[str, Any]:
    """Every unknown at once, of a specimen as they are."""
    return every_block(obj=smooth_object(2), static_background=np.full((16, 16), 1.0), **changes)


WHOLE = [
    pytest.param({}, id="far field"),
    pytest.param(
        {"recon_type": "near_field", "defocus_array": np.linspace(-150, 300, N_PATTERNS)}, id="near field"
    ),
    pytest.param({"propmethod": "yoshida", "slice_distances": [12.0]}, id="fourth order"),
    pytest.param({"tilts": np.zeros((1, 6))}, id="one row of tilts"),
]


@pytest.mark.parametrize("changes", WHOLE)
def test_never_too_small(changes: dict[str, Any]):
    """The diagonal is a bound: of a weak object, with everything that dilutes what an unknown does, it is larger than
    the Gauss-Newton one, for every block but the width of the point spread, which is estimated for speckles."""
    params = weak_scatterer(**changes)
    if "recon_type" in changes:
        params["probe"] = 16 * params["probe"]
    for block in EVERY_BLOCK:
        found = ratios(params, block)
        assert (found > (0.1 if block == "detector_blur_std" else 0.95)).all(), block


def test_plane_wave_probe_does_not_stop_the_reconstruction():
    """Positions have no effect with a plane wave, and no curvature: that must not keep the object from moving."""
    params = small_problem(42, probe_modes=1, object_modes=1, slices=1, update_slice_distances=False)
    params["probe"] = np.full((16, 20, 1), 0.1 + 0j)
    result = pypty.run({**params, "epoch_max": 5})
    assert result.loss[-1] < 0.9 * result.loss[0]
    assert np.isfinite(result.positions).all()


def test_vacuum_keeps_the_positions():
    """While the object is vacuum the loss does not depend on the positions: rounding noise must not move them."""
    params = small_problem(43, object_modes=1, slices=1, update_slice_distances=False)
    params["obj"] = np.ones_like(params["obj"])
    result = pypty.run({**params, "epoch_max": 1})
    assert result.loss[-1] < result.loss[0]
    assert np.abs(result.positions - result.start_positions).max() < 1e-6
