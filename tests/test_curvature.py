"""The diagonal Gauss-Newton curvature against loops, and against second derivatives of the loss."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import directional_derivative, random_complex, small_problem

import pypty
from pypty.backend.array import select
from pypty.model.variables import Variables
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
    return Curvature(BACKEND, GRID, CORNERS, MEAN, scale).diagonal(variables, BLOCKS)


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


def test_scale_multiplies_everything():
    """loss_weight and the noise model act on all blocks alike."""
    variables = make_variables()
    plain, scaled = diagonal(variables), diagonal(variables, 0.37)
    assert set(plain) == set(BLOCKS)
    for block in BLOCKS:
        np.testing.assert_allclose(scaled[block], 0.37 * plain[block], rtol=1e-12)


def test_only_named_blocks():
    found = Curvature(BACKEND, GRID, CORNERS, MEAN).diagonal(make_variables(), ["probe"])
    assert set(found) == {"probe"}


@pytest.mark.parametrize("precision", ["double", "single"])
@pytest.mark.parametrize("kind", ["random", "one pixel", "one frequency", "no counts", "one window"])
def test_positive_everywhere(kind: str, precision: str):
    """The optimiser divides by it. Also for a probe that is a point or a plane wave, for pixels that no window
    sees (the convolution by FFT leaves rounding noise there), and without a mean pattern."""
    backend = select("cpu", precision)
    variables = make_variables()
    corners, mean = CORNERS, MEAN
    if kind == "one pixel":
        probe = np.zeros((1, 6, 7), complex)
        probe[0, 3, 3] = 30.0
        variables = variables.replace({"probe": probe})
    elif kind == "one frequency":
        variables = variables.replace({"probe": np.ones((1, 6, 7), complex)})
    elif kind == "no counts":
        mean = np.zeros((6, 7))
    elif kind == "one window":
        corners = CORNERS[:1]
    variables = variables.replace(
        {name: variables.block(name).astype(backend.complex) for name in ("obj", "probe")}
    )
    found = Curvature(backend, GRID, corners, mean).diagonal(variables, BLOCKS)
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
    corners = np.round(params["positions"]).astype(int)
    variables = Variables(
        params["obj"].transpose(3, 2, 0, 1),
        params["probe"].transpose(2, 0, 1),
        params["positions"],
        np.ones(1),
    )
    mean = params["dataset"].mean(axis=0)
    raised = Curvature(BACKEND, setup_grid, corners, mean).diagonal(variables, [block])[block]
    # undo the rise: values are d + REGULARISATION max(d)
    plain = raised.reshape(raised.shape[-2:]) - raised.max() * REGULARISATION / (1 + REGULARISATION)
    rng = np.random.default_rng(6)
    bright = np.argwhere(plain > 0.3 * plain.max())
    for y, x in bright[rng.choice(len(bright), 4, replace=False)]:
        index = (y, x, 0, 1) if block == "obj" else (y, x, 1)
        found = second_derivatives(params, block, index)
        assert max(found) <= 1.02 * plain[y, x]
        assert np.mean(found) > 0.1 * plain[y, x]


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
