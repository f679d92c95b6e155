"""Every regulariser: against finite differences, PyPty 2.2, formulas written out, and cases solved by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import directional_derivative, inner, random_complex, random_like, relative

from pypty.errors import ParameterError
from pypty.objective import penalties
from pypty.objective.regularizers import (
    Regularizer,
    RegularizerContext,
    make_regularizers,
    outside_aperture,
    outside_window,
    regularizer_text,
    scan_frequencies,
)
from pypty.optics.grid import Grid
from pypty.optics.wavelength import wavelength_A
from pypty.params.schema import SCHEMA

SCAN = (4, 5)
GRID = Grid((12, 15), (0.31, 0.24), wavelength_A(80))
APERTURE = np.zeros(GRID.shape, bool)
APERTURE[4:9, 5:10] = True
CONTEXT = RegularizerContext(
    grid=GRID, cutoff=0.9, scan_size=SCAN, scan_step_A=2.1, slice_distance_A=12.0, aperture=APERTURE
)
BLOCKS = ("obj", "probe", "positions", "tilts")
OFF = {name: parameter.default for name, parameter in SCHEMA.items()}
SETTINGS: dict[str, Any] = {
    "atv_p": 1.7,
    "atv_q": 0.9,
    "mixed_variance_sigma": 0.3,
    "beta_wedge": 1.5,
    "window": np.array([0.4, 0.9]),
    "probe_mod_tol": 0.3,
}
WEIGHTS = {
    "fast_axis_reg_weight_positions": 0.3,
    "slow_axis_reg_weight_positions": 0.2,
    "deformation_reg_weight_positions": 0.4,
    "fast_axis_reg_weight_tilts": 0.6,
    "slow_axis_reg_weight_tilts": 0.5,
    "deformation_reg_weight_tilts": 0.7,
    "phase_norm_weight": 0.01,
    "abs_norm_weight": 0.02,
    "atv_weight": 0.03,
    "mixed_variance_weight": 0.5,
    "wedge_mu": 1e-3,
    "probe_reg_constraint_weight": 0.05,
    "window_weight": 0.8,
    "probe_mod_reg_weight": 0.1,
}
"""All different, so that none can take another's place."""
BLOCK_OF = {
    **dict.fromkeys(WEIGHTS, "obj"),
    **{name: name.split("_")[-1] for name in WEIGHTS if name.endswith(("positions", "tilts"))},
    "probe_reg_constraint_weight": "probe",
    "window_weight": "probe",
    "probe_mod_reg_weight": "probe",
}
OF_OBJECT = [name for name in WEIGHTS if BLOCK_OF[name] == "obj"]
OF_PROBE = [name for name in WEIGHTS if BLOCK_OF[name] == "probe"]
OF_SCAN = [name for name in WEIGHTS if BLOCK_OF[name] in ("positions", "tilts")]
all_terms = pytest.mark.parametrize("name", WEIGHTS)


def make(name: str, context: RegularizerContext = CONTEXT, **changes: Any) -> Regularizer:
    """One regulariser with its weight from WEIGHTS."""
    now = {**OFF, **SETTINGS, name: WEIGHTS[name], **changes}
    (found,) = make_regularizers(now, context, BLOCKS)
    return found


def start(block: str, seed: int = 0) -> np.ndarray:
    """Random unknowns; the object stays away from |O| = 1 and arg O = 0, where the L1 norms have their kinks."""
    rng = np.random.default_rng(seed)
    if block == "obj":
        shape = (2, 3, 13, 17)
        modulus = rng.uniform(0.2, 0.8, shape) + 0.5 * rng.integers(0, 2, shape) * (
            1 + rng.uniform(size=shape)
        )
        modulus[(modulus > 0.95) & (modulus < 1.05)] = 1.2
        return modulus * np.exp(1j * rng.uniform(0.2, 2.5, shape) * rng.choice([-1, 1], shape))
    if block == "probe":
        return random_complex(rng, (2, *GRID.shape))
    return rng.standard_normal((SCAN[0] * SCAN[1], 2 if block == "positions" else 6))


def assert_is_gradient(term: Regularizer, at: np.ndarray, step: float = 1e-4, rel: float = 1e-6) -> None:
    """dL = Re<G, dz> in several random directions, and along the gradient itself."""
    rng = np.random.default_rng(5)
    value, gradient = term.value_and_gradient(at)
    assert isinstance(value, float)
    assert gradient.shape == at.shape
    assert gradient.dtype == at.dtype
    along = gradient / np.linalg.norm(gradient)
    for direction in (along, along + random_like(rng, at) / np.sqrt(at.size), random_like(rng, at)):
        found = inner(gradient, direction)
        expected = directional_derivative(lambda t, d=direction: term.value_and_gradient(at + t * d)[0], step)
        scale = abs(expected) + 0.1 * np.linalg.norm(gradient) * np.linalg.norm(direction) / np.sqrt(at.size)
        assert abs(found - expected) < rel * scale


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parent / "golden" / "pypty" / "18_all_regularisers.npz") as file:
        return {key: file[key] for key in file.files}


# --- finite differences -------------------------------------------------------------------------------------------


@all_terms
def test_gradient_is_the_derivative_of_the_value(name: str):
    assert_is_gradient(make(name), start(BLOCK_OF[name]))


@pytest.mark.parametrize("name", OF_PROBE)
def test_probe_terms_of_subscans(name: str):
    """(subscan, mode, y, x): the sum over the subscans."""
    probes = random_complex(np.random.default_rng(1), (3, 2, *GRID.shape))
    term = make(name)
    assert_is_gradient(term, probes)
    value, gradient = term.value_and_gradient(probes)
    parts = [term.value_and_gradient(probe) for probe in probes]
    assert value == pytest.approx(sum(part[0] for part in parts), rel=1e-12)
    assert relative(gradient, np.stack([part[1] for part in parts])) < 1e-12


@pytest.mark.parametrize(("p", "q"), [(2, 1), (1, 1), (1, 0.5), (1.3, 2.6), (2, 2), (3, 0.2)])
def test_exponents_of_the_total_variation(p: float, q: float):
    assert_is_gradient(make("atv_weight", atv_p=p, atv_q=q), start("obj"), step=1e-5)


def test_probe_aperture_given_by_its_radius():
    context = RegularizerContext(
        grid=GRID, cutoff=0.9, scan_size=SCAN, scan_step_A=2.1, slice_distance_A=12.0, aperture=0.4
    )
    assert_is_gradient(make("probe_reg_constraint_weight", context), start("probe"))


def test_absorption_of_an_almost_opaque_object():
    """Below the floor the logarithm goes on along its tangent: value and gradient still belong to each other."""
    obj = 0.5e-6 * start("obj")
    power = abs(obj) ** 2
    assert (power < penalties.OPAQUE).any()
    assert_is_gradient(make("abs_norm_weight"), obj, step=1e-11, rel=1e-5)


# --- PyPty 2.2 ----------------------------------------------------------------------------------------------------

GOLDEN_ORDER = (
    "fast_axis_reg_weight_positions",
    "deformation_reg_weight_positions",
    "deformation_reg_weight_tilts",
    "fast_axis_reg_weight_tilts",
    "phase_norm_weight",
    "abs_norm_weight",
    "probe_reg_constraint_weight",
    "window_weight",
    "atv_weight",
    "mixed_variance_weight",
    "wedge_mu",
    "slow_axis_reg_weight_positions",
    "slow_axis_reg_weight_tilts",
    "probe_mod_reg_weight",
)
GOLDEN_KEYS = {
    "deformation_reg_weight_positions": "current_deformation_reg_weight_positions",
    "deformation_reg_weight_tilts": "current_deformation_reg_weight_tilts",
    "probe_reg_constraint_weight": "probe_reg_weight",
    "window_weight": "current_window_weight",
}
"""Names in the golden file, where they differ."""
DOCUMENTED_OTHERWISE = ("probe_reg_constraint_weight", "window_weight")


def golden_terms(golden: dict[str, np.ndarray]) -> dict[str, Regularizer]:
    settings = json.loads(str(golden["params_json"]))
    now = {**OFF, **{key: settings[key] for key in SETTINGS if key in settings}, "window": [0.5, 0.8]}
    now.update({name: settings[GOLDEN_KEYS.get(name, name)] for name in WEIGHTS})
    grid = Grid(
        golden["in_probe"].shape[:2],
        (settings["pixel_size_y_A"], settings["pixel_size_x_A"]),
        settings["wavelength_A"],
    )
    context = RegularizerContext(
        grid=grid,
        cutoff=settings["damping_cutoff_multislice"],
        scan_size=tuple(settings["scan_size"]),
        scan_step_A=settings["scan_step_A"],
        slice_distance_A=float(golden["in_slice_distances"][0]),
        aperture=golden["in_aperture_mask"],
    )
    return {term.name: term for term in make_regularizers(now, context, BLOCKS)}


def golden_block(golden: dict[str, np.ndarray], block: str) -> np.ndarray:
    if block == "obj":
        return golden["in_obj"].transpose(3, 2, 0, 1)
    if block == "probe":
        return golden["in_probe"].transpose(2, 0, 1)
    if block == "tilts":
        return golden["in_tilts"]
    return golden["in_positions_int"] + golden["in_positions_correction"]


@pytest.mark.parametrize("name", [name for name in GOLDEN_ORDER if name not in DOCUMENTED_OTHERWISE])
def test_value_is_that_of_pypty(name: str, golden: dict[str, np.ndarray]):
    term = golden_terms(golden)[name]
    value, _ = term.value_and_gradient(golden_block(golden, term.block))
    expected = golden["out_constraint_contributions"][GOLDEN_ORDER.index(name)]
    assert value == pytest.approx(float(expected), rel=1e-7)


def test_window_value_is_that_of_pypty_with_its_own_window(golden: dict[str, np.ndarray]):
    """Only the shape of the window differs."""
    term = penalties.ProbeWindow("window_weight", "probe", 0.7, golden["in_window"])
    value, _ = term.value_and_gradient(golden_block(golden, "probe"))
    assert value == pytest.approx(float(golden["out_constraint_contributions"][7]), rel=1e-7)


def test_object_gradients_are_those_of_pypty(golden: dict[str, np.ndarray]):
    """Beyond the scanned area PyPty's object gradient is that of the regularisers alone.

    It is a sum of five different fields; a fit gives each its factor: 1/2, for PyPty's is dL/dz*.
    """
    ny, nx = golden["in_positions_int"].max(axis=0) + golden["in_probe"].shape[:2]
    outside = np.ones(golden["in_obj"].shape[:2], bool)
    outside[:ny, :nx] = False
    assert outside.sum() > 200
    obj = golden_block(golden, "obj")
    terms = [term for term in golden_terms(golden).values() if term.block == "obj"]
    assert len(terms) == 5
    fields = np.stack([term.value_and_gradient(obj)[1][..., outside].ravel() for term in terms], axis=1)
    expected = golden["out_object_grad"].transpose(3, 2, 0, 1)[..., outside].ravel()
    assert relative(fields.sum(axis=1) / 2, expected) < 1e-7
    scale = np.linalg.norm(fields, axis=0)
    factors, *_ = np.linalg.lstsq(fields / scale, expected, rcond=None)
    np.testing.assert_allclose(factors / scale, 0.5, rtol=1e-7)


# --- formulas written out -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("aperture", [APERTURE, 0.4])
def test_probe_outside_its_aperture(aperture: np.ndarray | float):
    """w times the counts outside: once for a centred mask, once for a radius in units of Nyquist."""
    probe = start("probe")
    spectrum = np.fft.fftshift(np.fft.fft2(probe), axes=(1, 2))
    expected = 0.0
    for i in range(12):
        for j in range(15):
            if isinstance(aperture, float):
                inside = np.hypot((i - 6) / 12, (j - 7) / 15) <= 0.2
            else:
                inside = bool(aperture[i, j])
            expected += 0.0 if inside else 0.05 * float((abs(spectrum[:, i, j]) ** 2).sum())
    context = RegularizerContext(
        grid=GRID, cutoff=0.9, scan_size=SCAN, scan_step_A=2.1, slice_distance_A=12.0, aperture=aperture
    )
    value, _ = make("probe_reg_constraint_weight", context).value_and_gradient(probe)
    assert value == pytest.approx(expected, rel=1e-12)


def test_aperture_mask_need_not_be_boolean():
    np.testing.assert_array_equal(
        outside_aperture(3.0 * APERTURE, GRID.shape), outside_aperture(APERTURE, GRID.shape)
    )


def test_probe_window_is_a_circle_around_the_centre():
    window = outside_window((12, 15), 0.4, 0.9)
    for i in range(12):
        for j in range(15):
            r = np.sqrt(((i - 6) / 6) ** 2 + ((j - 7) / 7.5) ** 2)
            weight = 0.0 if r <= 0.4 else 1.0 if r >= 0.9 else 0.5 * (1 - np.cos(np.pi * (r - 0.4) / 0.5))
            assert window[i, j] == pytest.approx(weight, abs=1e-12)
    probe = start("probe")
    value, gradient = make("window_weight").value_and_gradient(probe)
    assert value == pytest.approx(0.8 * float((window * abs(probe) ** 2).sum()), rel=1e-12)
    assert relative(gradient, 1.6 * window * probe) < 1e-12


def test_probe_window_with_a_sharp_edge():
    window = outside_window((8, 8), 0.5, 0.5)
    assert set(np.unique(window)) == {0.0, 1.0}
    assert window[4, 4] == window[4, 6] == window[4, 2] == 0  # r = 0.5 is still inside
    assert window[4, 7] == window[6, 6] == 1


def test_probe_window_is_the_same_every_time():
    """PyPty 2.2 multiplied its window by the weight at each evaluation."""
    term, probe = make("window_weight"), start("probe")
    assert len({term.value_and_gradient(probe)[0] for _ in range(3)}) == 1


@pytest.mark.parametrize("tolerance", [0.05, 0.3, 0.5, 0.8, 1.4])
@pytest.mark.parametrize("cutoff", [0.6, 1.0])
def test_scan_frequencies(tolerance: float, cutoff: float):
    """Lattice points one by one, with K = ceil(0.5 x 2.1 / 0.31) = 4."""
    v, u = GRID.qy * 2.1, GRID.qx * 2.1
    expected = np.zeros(GRID.shape, bool)
    for k in range(-4, 5):
        for h in range(-4, 5):
            if h**2 + k**2 <= (cutoff * 4) ** 2:
                expected |= (v - k) ** 2 + (u - h) ** 2 <= tolerance**2
    found = scan_frequencies(GRID, cutoff, 2.1, tolerance)
    np.testing.assert_array_equal(found, expected.astype(float))
    assert expected.sum() > 0


def test_scan_frequencies_end_with_the_coarser_axis():
    """Pixels of 0.5 and 0.2 Å: K = ceil(0.5 x 2.1 / 0.5) = 3 along both axes, though qx reaches 5 scan frequencies."""
    grid = Grid((12, 15), (0.5, 0.2), GRID.wavelength)
    found = scan_frequencies(grid, 1.5, 2.1, 0.4)
    along_x = {int(h) for h in np.rint(grid.qx[0] * 2.1)[found[0] > 0]}
    assert along_x == {-3, -2, -1, 0, 1, 2, 3}


def test_modulation_of_the_probe():
    """The sum over pixels, with the centred spectrum, whose neighbours wrap around."""
    probe = start("probe")
    near = np.fft.fftshift(scan_frequencies(GRID, 0.9, 2.1, 0.3))
    assert 0 < near.sum() < near.size
    expected = 0.0
    for size in abs(np.fft.fftshift(np.fft.fft2(probe), axes=(1, 2))):
        for i, j in zip(*np.nonzero(near), strict=True):
            around = size[i - 1, j] + size[(i + 1) % 12, j] + size[i, j - 1] + size[i, (j + 1) % 15]
            expected += 0.1 * (around - 4 * size[i, j]) ** 2
    value, _ = make("probe_mod_reg_weight").value_and_gradient(probe)
    assert value == pytest.approx(float(expected), rel=1e-12)


def test_variance_between_modes():
    obj = start("obj")
    fy, fx = np.fft.fftfreq(13)[:, None], np.fft.fftfreq(17)[None, :]
    blurred = np.fft.ifft2(np.exp(-(fy**2 + fx**2) / 0.3**2) * np.fft.fft2(obj))
    expected = 0.5 / 2 * (abs(blurred[0] - blurred[1]) ** 2).sum() / 2  # two modes: |difference / 2|^2 each
    value, _ = make("mixed_variance_weight").value_and_gradient(obj)
    assert value == pytest.approx(float(expected), rel=1e-12)


def test_missing_wedge():
    """Plane waves: their one Fourier coefficient is N, and its frequency decides the weight."""
    shape, mu = (4, 6, 10), WEIGHTS["wedge_mu"]
    z, y, x = np.indices(shape)
    term, n = make("wedge_mu"), np.prod(shape)
    for a, b, c in ((1, 2, -3), (1, 0, 3), (2, 1, 0), (1, 0, 0), (0, 1, 2)):
        wave = np.exp(2j * np.pi * (a * z / 4 + b * y / 6 + c * x / 10))
        lateral = (b / (6 * 0.31)) ** 2 + (c / (10 * 0.24)) ** 2
        weight = mu * 2 / np.pi * np.arctan(1.5**2 * (a / (4 * 12.0)) ** 2 / (lateral or 1.0))
        value, gradient = term.value_and_gradient(wave[None])
        assert value == pytest.approx(weight * float(n) ** 2, rel=1e-9, abs=1e-12)
        np.testing.assert_allclose(gradient[0], 2 * weight * n * wave, atol=1e-12)


def test_total_variation_of_an_edge():
    """A strip two columns wide, 0.5 higher: each row of 5 has two steps of 0.5."""
    obj = np.ones((1, 2, 5, 8), complex)
    obj[0, 1, :, 3:5] += 0.3 - 0.4j
    term = make("atv_weight", atv_p=2, atv_q=1)
    value, gradient = term.value_and_gradient(obj)
    assert value == pytest.approx(0.03 * 5 * 2 * 0.5, rel=1e-4)
    unit = 0.03 * (0.6 - 0.8j)  # each end of the strip: one step; down the strip is downhill
    np.testing.assert_allclose(gradient[0, 1, :, 3:5], unit, atol=1e-9)
    np.testing.assert_allclose(gradient[0, 1, :, [2, 5]], -unit, atol=1e-9)
    assert not gradient[0, 0].any()


def test_norms_of_one_pixel():
    obj = np.array([[[[0.5j]]]])
    value, gradient = make("phase_norm_weight").value_and_gradient(obj)
    assert value == pytest.approx(0.01 * np.pi / 2)
    assert gradient[0, 0, 0, 0] == pytest.approx(-0.02)  # towards larger Re O the phase falls by 1/|O|
    value, gradient = make("abs_norm_weight").value_and_gradient(obj)
    assert value == pytest.approx(0.02 * np.log(2))
    assert gradient[0, 0, 0, 0] == pytest.approx(-0.04j)


# --- scan ---------------------------------------------------------------------------------------------------------


def points(function: Any, columns: int = 2) -> np.ndarray:
    """(20, columns) values of ``function(row, column)`` in the order of the scan."""
    row, column = np.meshgrid(np.arange(4.0), np.arange(5.0), indexing="ij")
    values = (function(row, column) + 0 * row).ravel()
    return np.stack([values * (k + 1) for k in range(columns)], axis=1)


@pytest.mark.parametrize("name", OF_SCAN)
def test_affine_grid_costs_nothing(name: str):
    grid = points(lambda r, c: 30 + 2.5 * r - 1.5 * c, 2 if name.endswith("positions") else 6)
    value, gradient = make(name).value_and_gradient(grid)
    assert value == pytest.approx(0, abs=1e-20)
    np.testing.assert_allclose(gradient, 0, atol=1e-11)


@pytest.mark.parametrize("block", ["positions", "tilts"])
def test_parabola_along_each_axis(block: str):
    """c^2 and r^2 have the second difference 2 everywhere; the slow axis sums each row of 5 points first."""
    columns = 2 if block == "positions" else 6
    squares = sum((k + 1) ** 2 for k in range(columns))
    fast, slow = (f"{axis}_axis_reg_weight_{block}" for axis in ("fast", "slow"))
    along_fast, along_slow = points(lambda r, c: c**2, columns), points(lambda r, c: r**2, columns)

    def value(name: str, grid: np.ndarray) -> float:
        return make(name).value_and_gradient(grid)[0]

    assert value(fast, along_fast) == pytest.approx(WEIGHTS[fast] * squares * 4 * (5 - 2) * 2**2)
    assert value(fast, along_slow) == 0
    assert value(slow, along_slow) == pytest.approx(WEIGHTS[slow] * squares * (4 - 2) * (5 * 2) ** 2)
    assert value(slow, along_fast) == 0


def test_deformation_is_the_residual_of_a_least_squares_fit():
    positions = start("positions")
    row, column = np.indices(SCAN).reshape(2, -1)
    affine = np.stack([row, column, np.ones(20)], axis=1)
    residual = positions - affine @ np.linalg.lstsq(affine, positions, rcond=None)[0]
    value, gradient = make("deformation_reg_weight_positions").value_and_gradient(positions)
    assert value == pytest.approx(0.4 * float((residual**2).sum()), rel=1e-12)
    assert relative(gradient, 0.8 * residual) < 1e-12


def test_deformation_of_a_sheared_corner_by_hand():
    """r c on 2 x 2 points: the residual is +-1/4."""
    context = RegularizerContext(
        grid=GRID, cutoff=0.9, scan_size=(2, 2), scan_step_A=2.1, slice_distance_A=12.0, aperture=None
    )
    corner = np.array([[0.0, 0], [0, 0], [0, 0], [1, 0]])
    value, gradient = make("deformation_reg_weight_positions", context).value_and_gradient(corner)
    assert value == pytest.approx(0.4 * 4 / 16)
    np.testing.assert_allclose(gradient[:, 0], 0.8 * np.array([1, -1, -1, 1]) / 4, atol=1e-15)


@pytest.mark.parametrize("scan", [(1, 6), (6, 1), (2, 3), (1, 1)])
@pytest.mark.parametrize("name", [name for name in OF_SCAN if name.endswith("positions")])
def test_scans_too_short_for_a_second_difference(name: str, scan: tuple[int, int]):
    context = RegularizerContext(
        grid=GRID, cutoff=0.9, scan_size=scan, scan_step_A=2.1, slice_distance_A=12.0, aperture=None
    )
    n = scan[0] * scan[1]
    line = np.stack([3.0 * np.arange(n), -2.0 * np.arange(n)], axis=1)  # affine in the index
    value, gradient = make(name, context).value_and_gradient(line)
    assert value == pytest.approx(0, abs=1e-20)
    np.testing.assert_allclose(gradient, 0, atol=1e-11)


@pytest.mark.parametrize("name", [name for name in OF_SCAN if name.endswith("tilts")])
def test_one_tilt_for_all_positions_costs_nothing(name: str):
    value, gradient = make(name).value_and_gradient(np.ones((1, 6)))
    assert value == 0
    np.testing.assert_array_equal(gradient, np.zeros((1, 6)))


# --- rounded corners ----------------------------------------------------------------------------------------------


def nearly_vacuum(size: float, seed: int = 0, dtype: type = np.complex128) -> np.ndarray:
    """Phases and logarithms of the modulus of this size, around the vacuum."""
    rng = np.random.default_rng(seed)
    return np.exp(size * random_complex(rng, (2, 3, 13, 17))).astype(dtype)


@pytest.mark.parametrize("name", ["phase_norm_weight", "abs_norm_weight"])
def test_the_corner_of_an_l1_norm_is_rounded(name: str):
    """Inside the corner value and gradient belong to each other; outside the norm is what it was."""
    assert_is_gradient(make(name), nearly_vacuum(penalties.KINK), step=1e-9, rel=1e-4)
    at = start("obj")
    value, _ = make(name).value_and_gradient(at)
    part = abs(np.angle(at)) if name == "phase_norm_weight" else abs(np.log(abs(at)))
    assert value == pytest.approx(WEIGHTS[name] * float(part.sum()), rel=1e-12)


@pytest.mark.parametrize(("dtype", "rounding"), [(np.complex128, 1e-16), (np.complex64, 1e-7)])
@pytest.mark.parametrize("name", ["phase_norm_weight", "abs_norm_weight"])
def test_rounding_of_the_vacuum_moves_nothing(name: str, dtype: type, rounding: float):
    """A start from vacuum has phases of rounding, which differ between devices: their sign is no direction."""
    _, gradient = make(name).value_and_gradient(nearly_vacuum(rounding, dtype=dtype))
    assert abs(gradient).max() < 0.05 * WEIGHTS[name]


@pytest.mark.parametrize(
    ("dtype", "rounding", "tolerance"), [(complex, 1e-16, 1e-9), (np.complex64, 1e-7, 0.01)]
)
def test_empty_frequencies_have_no_phase(dtype: type, rounding: float, tolerance: float):
    """Where the probe's spectrum is empty it holds rounding, which differs between devices."""
    near = np.ones(GRID.shape)
    term = penalties.ProbeModulation("probe_mod_reg_weight", "probe", 1.0, near)
    aperture = np.fft.ifftshift(APERTURE).astype(float)
    gradients = []
    for seed in range(2):
        noise = rounding * random_complex(np.random.default_rng(seed), GRID.shape)
        spectrum = aperture * (1 + 0.5j) + noise
        _, gradient = term.value_and_gradient(np.fft.ifft2(spectrum)[None].astype(dtype))
        gradients.append(gradient)
    assert relative(gradients[0], gradients[1]) < tolerance


def test_the_slope_of_almost_empty_frequencies():
    """Around the threshold, relative to the largest value, the gradient is that of the value."""
    rng = np.random.default_rng(3)
    spectrum = 2 * penalties.DARK * random_complex(rng, (1, *GRID.shape))
    spectrum[0, 0, 0] = 1.0
    term = penalties.ProbeModulation("probe_mod_reg_weight", "probe", 1.0, np.ones(GRID.shape))
    direction = penalties.DARK * random_complex(rng, spectrum.shape)
    direction[0, 0, 0] = 0  # the threshold counts as constant
    at, along = np.fft.ifft2(spectrum), np.fft.ifft2(direction)
    _, gradient = term.value_and_gradient(at)
    expected = directional_derivative(lambda t: term.value_and_gradient(at + t * along)[0], 1e-4)
    assert inner(gradient, along) == pytest.approx(expected, rel=1e-5)


# --- vacuum, opaque and flat objects ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
@pytest.mark.parametrize("name", OF_OBJECT)
@pytest.mark.parametrize("value", [1.0, 0.0, 1e-30, 1e-5j, -1.0, 0.3 + 0.4j])
def test_constant_object(name: str, value: complex, dtype: type):
    """Finite everywhere; vacuum and what has no kink or slope there costs nothing."""
    obj = np.full((2, 3, 13, 17), value, dtype)
    for changes in ({}, {"atv_p": 1.0, "atv_q": 0.5}):
        with np.errstate(divide="raise", invalid="raise", over="raise"):
            penalty, gradient = make(name, **changes).value_and_gradient(obj)
        assert np.isfinite(penalty)
        assert np.isfinite(gradient).all()
        assert abs(gradient).max() < 1e6
        at_rest = {"phase_norm_weight": value == 1, "abs_norm_weight": abs(value) == 1}
        if at_rest.get(name, True):
            np.testing.assert_allclose(gradient, 0, atol=1e-5 if dtype is np.complex64 else 1e-14)
            assert penalty == pytest.approx(0, abs=1e-4)


def test_flat_object_has_a_total_variation_of_zero():
    """Up to what keeps the slope finite: FLAT^(q/p) for each pixel."""
    value, gradient = make("atv_weight", atv_p=2, atv_q=1).value_and_gradient(np.full((1, 1, 8, 8), 2 + 1j))
    assert 0 <= value <= 0.03 * 64 * 1.01e-6
    assert not gradient.any()


@pytest.mark.parametrize("name", OF_PROBE)
def test_dark_probe(name: str):
    with np.errstate(divide="raise", invalid="raise", over="raise"):
        value, gradient = make(name).value_and_gradient(np.zeros((2, *GRID.shape), complex))
    assert value == 0
    assert not gradient.any()


def test_single_slice_has_no_wedge_and_single_mode_no_variance():
    obj = start("obj")
    for name, alone in (("wedge_mu", obj[:, :1]), ("mixed_variance_weight", obj[:1])):
        value, gradient = make(name).value_and_gradient(alone)
        assert value == 0
        np.testing.assert_array_equal(gradient, np.zeros_like(alone))


# --- what is made -------------------------------------------------------------------------------------------------


def test_only_what_has_a_weight_and_is_refined():
    now = {**OFF, **SETTINGS}
    assert make_regularizers(now, CONTEXT, BLOCKS) == []
    now.update(WEIGHTS)
    assert {term.name: term.block for term in make_regularizers(now, CONTEXT, BLOCKS)} == BLOCK_OF
    for block in BLOCKS:
        found = {term.name for term in make_regularizers(now, CONTEXT, {block})}
        assert found == {name for name in WEIGHTS if BLOCK_OF[name] == block}
    assert make_regularizers(now, CONTEXT, ()) == []


@all_terms
def test_each_weight_makes_its_own_term(name: str):
    assert make(name).name == name
    assert make(name).block == BLOCK_OF[name]


def test_infinite_probe_weight_is_a_projection_and_not_made_here():
    now = {**OFF, **SETTINGS, "probe_reg_constraint_weight": np.inf}
    assert make_regularizers(now, CONTEXT, BLOCKS) == []


SHAPES = {
    "atv_weight": {"atv_p": 1.2, "atv_q": 1.4},
    "mixed_variance_weight": {"mixed_variance_sigma": 0.7},
    "wedge_mu": {"beta_wedge": 0.4},
    "window_weight": {"window": np.array([0.5, 0.9])},
    "probe_mod_reg_weight": {"probe_mod_tol": 0.6},
}
"""Other values of the parameters that shape each, beside its weight."""


def described(name: str, **changes: Any) -> tuple[str, Regularizer]:
    """What a resume file holds of one regulariser, and the regulariser."""
    now = {**OFF, **SETTINGS, name: WEIGHTS[name], **changes}
    (term,) = make_regularizers(now, CONTEXT, BLOCKS)
    return regularizer_text(now, [term], BLOCKS), term


def same_penalty(one: Regularizer, other: Regularizer) -> bool:
    """Whether all numbers and masks of two penalties are the same."""
    return type(one) is type(other) and all(
        np.array_equal(value, vars(other)[key]) for key, value in vars(one).items()
    )


@all_terms
def test_the_text_tells_a_regulariser_from_another(name: str):
    """Each parameter that changes the penalty changes its text, and no other does."""
    text, term = described(name)
    changes = {name: 2 * WEIGHTS[name], **SHAPES.get(name, {})}
    for key, value in changes.items():
        other, changed = described(name, **{key: value})
        assert other != text, key
        assert not same_penalty(changed, term), key
    others = {key: value for values in SHAPES.values() for key, value in values.items()}
    numbers = {key: 2 * SCHEMA[key].default + 1 for key in ("loss_weight", "cf_beta_abs", "update_step_bfgs")}
    for key, value in {**others, **numbers, "propmethod": "yoshida"}.items():
        if key not in changes:
            other, same = described(name, **{key: value})
            assert other == text, key
            assert same_penalty(same, term), key


def test_the_text_is_that_of_earlier_resume_files():
    now = {**OFF, **SETTINGS, **WEIGHTS}
    found = regularizer_text(now, make_regularizers(now, CONTEXT, ("obj", "probe")), ("obj", "probe"))
    assert found == (
        "phase_norm_weight=0.01, abs_norm_weight=0.02, atv_weight=0.03, atv_q=0.9, atv_p=1.7, "
        "mixed_variance_weight=0.5, mixed_variance_sigma=0.3, wedge_mu=0.001, beta_wedge=1.5, "
        "probe_reg_constraint_weight=0.05, window_weight=0.8, window=[0.4, 0.9], "
        "probe_mod_reg_weight=0.1, probe_mod_tol=0.3"
    )
    now = {**OFF, "probe_reg_constraint_weight": np.inf}
    assert regularizer_text(now, make_regularizers(now, CONTEXT, BLOCKS), BLOCKS) == "aperture"
    assert regularizer_text(now, [], ("obj",)) == ""


@pytest.mark.parametrize(
    ("name", "changes", "needs"),
    [
        *((name, {}, "scan_size") for name in OF_SCAN),
        ("window_weight", {"window": None}, "window"),
        ("probe_reg_constraint_weight", {}, "aperture_mask"),
    ],
)
def test_what_a_weight_needs_is_named(name: str, changes: dict[str, Any], needs: str):
    bare = RegularizerContext(
        grid=GRID, cutoff=0.9, scan_size=None, scan_step_A=2.1, slice_distance_A=12.0, aperture=None
    )
    with pytest.raises(ParameterError, match=rf"{name} is .*needs .*{needs}"):
        make(name, bare, **changes)


# --- all of them --------------------------------------------------------------------------------------------------


@all_terms
def test_value_and_gradient_are_linear_in_the_weight(name: str):
    at = start(BLOCK_OF[name])
    value, gradient = make(name).value_and_gradient(at)
    more, steeper = make(name, **{name: 2.5 * WEIGHTS[name]}).value_and_gradient(at)
    assert value > 0
    assert more == pytest.approx(2.5 * value, rel=1e-12)
    assert relative(steeper, 2.5 * gradient) < 1e-12


@all_terms
def test_argument_is_not_modified(name: str):
    at = start(BLOCK_OF[name])
    at.setflags(write=False)
    before = at.copy()
    _, gradient = make(name).value_and_gradient(at)
    np.testing.assert_array_equal(at, before)
    assert gradient.flags.writeable
    assert not np.shares_memory(gradient, at)


@pytest.mark.parametrize("name", OF_OBJECT + OF_PROBE)
def test_single_precision(name: str):
    """complex64 stays complex64; values are float64 sums."""
    at = start(BLOCK_OF[name])
    expected, gradient = make(name).value_and_gradient(at)
    value, single = make(name).value_and_gradient(at.astype(np.complex64))
    assert single.dtype == np.complex64
    assert value == pytest.approx(expected, rel=1e-5)
    assert relative(single, gradient) < 1e-4


def test_values_are_summed_in_double_precision():
    """float32 alone would lose the small pixels beside the first."""
    obj = np.full((1, 1, 64, 64), np.exp(1e-4j), np.complex64)
    obj[0, 0, 0, 0] = np.exp(3j)
    value, _ = make("phase_norm_weight").value_and_gradient(obj)
    assert value == pytest.approx(0.01 * float(np.angle(obj).sum(dtype=np.float64)), rel=1e-12)


@all_terms
@pytest.mark.parametrize("precision", ["single", "double"])
def test_on_a_device(device: None, name: str, precision: str):
    """The same numbers where host and device arrays refuse to mix."""
    import cupy

    at = start(BLOCK_OF[name])
    if precision == "single" and np.iscomplexobj(at):
        at = at.astype(np.complex64)
    expected, gradient = make(name).value_and_gradient(at)
    value, on_it = make(name).value_and_gradient(cupy.asarray(at))
    assert isinstance(on_it, cupy.ndarray)
    # a number that nobody has waited for
    assert isinstance(value, cupy.ndarray) and value.shape == () and value.dtype == np.float64
    assert on_it.dtype == at.dtype
    # functions of a device and the order of its sums differ by a few roundings; a few parts of a gradient cancel
    tolerance = 1e-5 if at.dtype == np.complex64 else 1e-11
    assert float(value) == pytest.approx(expected, rel=tolerance)
    np.testing.assert_allclose(on_it.get(), gradient, rtol=tolerance, atol=tolerance * abs(gradient).max())
