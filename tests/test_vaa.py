"""pypty.vaa: each function's effect, and a bad value for each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from pypty import vaa
from pypty.errors import DataError, ParameterError
from pypty.optics.grid import Grid
from pypty.optics.probes import aberrate, probe_from_spectrum
from pypty.optics.scan_grid import rotation_yx, scan_grid_A
from pypty.optics.wavelength import wavelength_A
from pypty.output.loss_log import EpochRecord, write_loss_log


def write_log(path: Path, n: int = 6) -> Path:
    rows = [
        EpochRecord(
            epoch=k,
            time_s=1.5 * k,
            loss=100.0 / (k + 1),
            sse=50.0,
            first_step=1.0,
            step=0.5,
            evaluations=2,
            slope=-1.0,
            new_slope=-0.1,
            terms={"tv": 0.1},
        )
        for k in range(n)
    ]
    write_loss_log(path, rows, 1)
    return path


def test_outputlog_plots_has_a_figure_for_each_curve(tmp_path: Path) -> None:
    figures = vaa.outputlog_plots(write_log(tmp_path / "loss.csv"), skip_first=2)
    assert len(figures) == 6
    assert all(isinstance(figure, Figure) for figure in figures)
    bottom, top = figures[0].axes
    np.testing.assert_allclose(bottom.lines[0].get_xdata(), [2, 3, 4, 5])
    np.testing.assert_allclose(bottom.lines[0].get_ydata(), [100 / 3, 25, 20, 100 / 6])
    assert (bottom.get_xlabel(), bottom.get_ylabel(), top.get_xlabel()) == ("epoch", "loss", "time / s")
    assert (bottom.get_yscale(), figures[4].axes[0].get_yscale()) == ("log", "linear")  # slopes are negative
    assert len(vaa.outputlog_plots(tmp_path / "loss.csv", plot_time=False)[0].axes) == 1


@pytest.mark.parametrize("text", [None, "", "a,b\n1,2\n", "epoch,time / s,loss\n0,0,no\n", "\x00\xff"])
def test_outputlog_plots_refuses_what_is_no_log(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "loss.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises((DataError, ParameterError), match="loss.csv|0 epochs"):
        vaa.outputlog_plots(path)


def test_outputlog_plots_refuses_to_skip_all(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="skip_first"):
        vaa.outputlog_plots(write_log(tmp_path / "loss.csv"), skip_first=6)


def modes(n: int = 3, subscans: int = 0) -> np.ndarray:
    rng = np.random.default_rng(0)
    shape = (8, 10, n, subscans) if subscans else (8, 10, n)
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


@pytest.mark.parametrize(("array", "n"), [(modes(1)[:, :, 0], 1), (modes(2), 2), (modes(2, 2), 4)])
def test_plot_modes(array: np.ndarray, n: int) -> None:
    figure = vaa.plot_modes(array)
    pictures = [axes for axes in figure.axes if axes.images and axes.get_xlabel()]
    assert len(pictures) == 4 * n
    np.testing.assert_allclose(pictures[0].images[0].get_array(), np.abs(array.reshape(8, 10, -1)[:, :, 0]))
    reciprocal = np.abs(np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(array.reshape(8, 10, -1)[:, :, 0]))))
    np.testing.assert_allclose(pictures[2].images[0].get_array(), reciprocal)


def test_plot_complex_modes() -> None:
    figure = vaa.plot_complex_modes(modes(4), 3, 2)
    assert [axes.get_title() for axes in figure.axes] == ["mode 0", "mode 1", "mode 2"]
    assert figure.axes[2].get_subplotspec().rowspan.start == 1  # the second row
    np.testing.assert_allclose(
        figure.axes[1].images[0].get_array(), vaa.complex_array_to_rgb(modes(4)[:, :, 1]), atol=1e-12
    )


@pytest.mark.parametrize(("nm", "sub"), [(0, 1), (4, 1), (2, 0), (2, 3)])
def test_plot_complex_modes_refuses(nm: int, sub: int) -> None:
    with pytest.raises(ParameterError, match="nm|sub"):
        vaa.plot_complex_modes(modes(3), nm, sub)


def test_modes_of_no_shape_are_refused() -> None:
    with pytest.raises(ParameterError, match="modes of shape"):
        vaa.plot_modes(np.ones(4))


def aberrated_probe(coefficients: list[float], n: int = 64, pixel_A: float = 0.25) -> np.ndarray:
    """A probe of 25 mrad at 80 kV, shifted and with a phase of its own."""
    grid = Grid((n, n), (pixel_A, pixel_A), wavelength_A(80.0))
    disk = np.hypot(grid.qy, grid.qx) * grid.wavelength < 25e-3
    probe = probe_from_spectrum(np.fft.fftshift(disk).astype(complex))[None]
    return np.roll(aberrate(probe, grid, np.array(coefficients))[0], (3, -2), (0, 1)) * np.exp(0.7j)


@pytest.mark.parametrize("coefficients", [[150.0], [-80.0], [100.0, 20, -10, 300, -200, 100, 50, 2e4]])
def test_fit_aberrations_finds_them(coefficients: list[float]) -> None:
    """Several turns of phase, without unwrapping; a shift and a constant are not taken for aberrations."""
    probe = aberrated_probe(coefficients)
    found = vaa.fit_aberrations_to_wave(probe, 0.25, 80.0, thresh=0.1, plot=False)
    assert found.shape == (12,)
    np.testing.assert_allclose(found, [*coefficients, *[0.0] * (12 - len(coefficients))], atol=1e-3)
    noise = np.random.default_rng(0).normal(size=(2, 64, 64)) * np.abs(probe).max() * 5e-3
    guess = np.array(coefficients) * 0.8
    noisy = vaa.fit_aberrations_to_wave(
        probe + noise[0] + 1j * noise[1], 0.25, 80.0, 0.1, guess, False, loss="soft_l1", max_mrad=24.0
    )
    assert len(noisy) == len(coefficients)
    assert noisy[0] == pytest.approx(coefficients[0], abs=4)


def test_fit_aberrations_shows_what_it_fitted() -> None:
    found, figure = vaa.fit_aberrations_to_wave(aberrated_probe([150.0]), 0.25, 80.0, 0.1, [0.0, 0.0, 0.0])
    assert found[0] == pytest.approx(150)
    difference = np.asarray(figure.axes[4].images[0].get_array().filled(0.0))
    assert np.abs(difference).max() < 1e-6
    assert [label.get_text() for label in figure.axes[6].get_yticklabels()] == ["C10", "C12a", "C12b"]
    assert figure.axes[0].get_xlabel() == "kx / mrad"


@pytest.mark.parametrize(
    "changes",
    [
        {"wave": np.ones((4, 4, 2))},
        {"wave": np.full((8, 8), np.nan)},
        {"px_size_A": 0.0},
        {"aberrations_guess": []},
        {"thresh": 1.0},
        {"max_mrad": -1.0},
        {"max_mrad": 0.1},
    ],
)
def test_fit_aberrations_refuses(changes: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match="wave|above 0|pixels"):
        vaa.fit_aberrations_to_wave(
            **{"wave": aberrated_probe([10.0]), "px_size_A": 0.25, "acc_voltage": 80.0, **changes}
        )


@given(
    st.tuples(st.integers(1, 6), st.integers(2, 6)),
    st.floats(0.1, 5),
    st.floats(-179, 180),
    st.tuples(st.floats(-9, 9), st.floats(-9, 9)),
)
@settings(max_examples=40, deadline=None)
def test_the_angle_of_a_grid_is_its_PLRotation(
    scan_size: tuple[int, int], step: float, angle: float, offset: tuple[float, float]
) -> None:
    positions = scan_grid_A(scan_size, step, angle) + offset
    found_step, found_angle = vaa.get_step_angle_scan_grid(positions, scan_size)
    assert found_step == pytest.approx(step)
    rebuilt = scan_grid_A(scan_size, found_step, found_angle)
    np.testing.assert_allclose(rebuilt - rebuilt.mean(axis=0), positions - positions.mean(axis=0), atol=1e-9)


def test_the_grid_found_is_the_nearest_one(caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(1)
    positions = scan_grid_A((7, 5), 2.0, 33.0) + rng.normal(0, 0.3, (35, 2))
    with caplog.at_level("INFO", logger="pypty"):
        step, angle = vaa.get_step_angle_scan_grid(positions, (7, 5), print_flag=0)
        assert not caplog.records
        vaa.get_step_angle_scan_grid(positions, (7, 5))
        assert "rotation" in caplog.text
    mesh_y, mesh_x = np.divmod(np.arange(35), 5) - np.array([[3.0], [2.0]])
    x, y = positions[:, 1] - positions[:, 1].mean(), positions[:, 0] - positions[:, 0].mean()
    best = vaa.mesh_objective_positions([step, np.deg2rad(angle)], x, y, mesh_x, mesh_y)
    for change in ([1e-2, 0], [-1e-2, 0], [0, 1e-2], [0, -1e-2]):
        guess = np.array([step, np.deg2rad(angle)]) + change
        assert vaa.mesh_objective_positions(guess, x, y, mesh_x, mesh_y) > best


def test_mesh_model_positions_turn_and_scale() -> None:
    x, y = vaa.mesh_model_positions(2.0, np.deg2rad(90), np.array([1.0, 0.0]), np.array([0.0, 1.0]))
    np.testing.assert_allclose(x, [0, -2], atol=1e-12)  # x' = s (x cos a - y sin a)
    np.testing.assert_allclose(y, [2, 0], atol=1e-12)


@pytest.mark.parametrize("positions", [np.ones((5, 2)), np.ones((6, 3)), np.ones(12)])
def test_positions_that_are_no_scan_are_refused(positions: np.ndarray) -> None:
    for call in (
        lambda: vaa.get_step_angle_scan_grid(positions, (2, 3)),
        lambda: vaa.get_affine_tranform(positions, (2, 3), 1.0),
    ):
        with pytest.raises(ParameterError, match="positions"):
            call()
    with pytest.raises(ParameterError, match="ini_guess"):
        vaa.mesh_objective_positions([1.0], *np.ones((4, 3)))


def test_the_affine_matrix_of_a_sheared_scan() -> None:
    matrix = np.array([[0.5, 0.04], [-0.02, 0.45]])
    rows, columns = np.divmod(np.arange(20), 5)
    positions = np.stack([rows, columns], axis=1) @ matrix.T / 0.1 + [7, 3]
    np.testing.assert_allclose(vaa.get_affine_tranform(positions, (4, 5), 0.1), matrix, atol=1e-12)
    regular = vaa.get_affine_transform(scan_grid_A((4, 5), 0.4, 20.0) / 0.1, (4, 5), 0.1)
    np.testing.assert_allclose(regular, 0.4 * rotation_yx(20.0), atol=1e-12)
    with pytest.raises(ParameterError, match="px_size_A"):
        vaa.get_affine_transform(positions, (4, 5), 0.0)
    with pytest.raises(ParameterError, match="a single line"):
        vaa.get_affine_transform(scan_grid_A((1, 5), 0.4), (1, 5), 1.0)


def test_complex_pca_finds_the_images_behind_a_stack() -> None:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(6, 7, 2)) + 1j * rng.normal(size=(6, 7, 2))
    images -= images.mean(axis=(0, 1))
    weights = rng.normal(size=(2, 9)) + 1j * rng.normal(size=(2, 9))
    data = images @ weights + 3.0
    found = vaa.complex_pca(data, 3)
    assert found.shape == (6, 7, 3)
    power = (np.abs(found) ** 2).sum(axis=(0, 1))
    assert power[0] > power[1] > 1e20 * power[2]
    left = images.reshape(-1, 2)
    basis = found[:, :, :2].reshape(-1, 2)
    np.testing.assert_allclose(basis @ np.linalg.lstsq(basis, left, rcond=None)[0], left, atol=1e-10)


@pytest.mark.parametrize(("shape", "n"), [((4, 5), 1), ((4, 5, 3), 0), ((4, 5, 3), 4)])
def test_complex_pca_refuses(shape: tuple[int, ...], n: int) -> None:
    with pytest.raises(ParameterError, match="data of shape|n_components"):
        vaa.complex_pca(np.ones(shape), n)


def test_complex_array_to_rgb() -> None:
    wave = np.array([[1.0, np.exp(2j * np.pi / 3), 0.0, 0.5]])
    np.testing.assert_allclose(
        vaa.complex_array_to_rgb(wave)[0], [[1, 0, 0], [0, 1, 0], [0, 0, 0], [0.5, 0, 0]], atol=1e-9
    )
    np.testing.assert_allclose(
        vaa.complex_array_to_rgb(wave, "light")[0],
        [[1, 0, 0], [0, 1, 0], [1, 1, 1], [1, 0.5, 0.5]],
        atol=1e-9,
    )
    assert vaa.complex_array_to_rgb(wave, rmax=2.0)[0, 0, 0] == pytest.approx(0.5)
    with pytest.raises(ParameterError, match="theme"):
        vaa.complex_array_to_rgb(wave, "grey")
    with pytest.raises(ParameterError, match="rmax"):
        vaa.complex_array_to_rgb(wave, rmax=0.0)


def test_plot_complex_colorwheel() -> None:
    axes = Figure().add_subplot()
    vaa.plot_complex_colorwheel(axes, N=65, rmax=2.5, background=0.25)
    picture = np.asarray(axes.images[0].get_array())
    assert picture.shape == (65, 65, 3)
    np.testing.assert_allclose(picture[0, 0], 0.25)
    np.testing.assert_allclose(picture[32, 64], [1, 0, 0], atol=1e-9)  # the positive real axis is red
    assert picture[0, 32, 1] > picture[0, 32, 2]  # +i is up: yellow-green
    assert any("2.5" in text.get_text() for text in axes.texts)
    with pytest.raises(ParameterError, match="background"):
        vaa.plot_complex_colorwheel(axes, background=2.0)


def test_radial_average_of_rings() -> None:
    y, x = np.mgrid[-10:11, -12:13] * 0.5
    image = np.floor(np.hypot(y, x) + 1e-9)
    radii, means = vaa.radial_average(image, 1.0, 5.0, 1.0, 0.5, plot=False)
    np.testing.assert_allclose(radii, [1.5, 2.5, 3.5, 4.5])
    np.testing.assert_allclose(means, [1, 2, 3, 4])
    figure = vaa.radial_average(image, 1.0, 5.0, 1.0, 0.5)
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), means)
    assert "radius" in figure.axes[0].get_xlabel()
    assert np.isnan(vaa.radial_average(image, 1.0, 30.0, 20.0, 0.5, plot=False)[1]).all()


@pytest.mark.parametrize(
    "changes",
    [{"ff": np.ones(4)}, {"ff": np.ones((4, 4)) * 1j}, {"r_bins": 0}, {"r_max": 0.5}, {"px_size_A": 0}],
)
def test_radial_average_refuses(changes: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match="ff|r_bins"):
        vaa.radial_average(
            **{"ff": np.ones((4, 4)), "r_bins": 1.0, "r_max": 3.0, "r_min": 1.0, "px_size_A": 1.0, **changes}
        )


def test_add_scalebar_ax() -> None:
    axes = Figure().add_subplot()
    vaa.add_scalebar_ax(axes, 2, 3, 40, 5, 22, 1, 0.25, "Å", fontsize=9)
    bar = axes.patches[0]
    assert (bar.get_xy(), bar.get_width(), bar.get_height()) == ((2, 3), 40, 5)
    assert (axes.texts[0].get_text(), axes.texts[0].get_position()) == ("10 Å", (22, 1))
    with pytest.raises(ParameterError, match="scale bar"):
        vaa.add_scalebar_ax(axes, 2, 3, 0, 5, 22, 1, 0.25, "Å")


@pytest.mark.parametrize("angle", [0.0, 25.0, -110.0])
@pytest.mark.parametrize("probe", [True, False])
def test_crop_puts_an_object_on_the_grid_of_the_scan(angle: float, probe: bool) -> None:
    """Pixels of the result at whole scan steps are what lies under the scan positions."""
    pixel, step, window = 0.25, 0.5, 20
    positions = scan_grid_A((9, 12), step, angle) / pixel
    positions -= positions.min(axis=0) - 4
    shape = np.ceil(positions.max(axis=0)).astype(int) + window + 4
    y, x = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")

    def image(at: Any) -> np.ndarray:
        return np.exp(0.3j * (np.sin(0.21 * at[0]) + np.cos(0.17 * at[1])))

    params = {
        "scan_size": (9, 12),
        "scan_step_A": step,
        "PLRotation_deg": angle,
        "pixel_size_y_A": pixel,
        "pixel_size_x_A": pixel,
        "positions": positions,
        "probe": np.ones((window, window, 1)) if probe else None,
    }
    stack = np.stack([image((y, x)), image((x, y))], axis=-1)[:, :, :, None]
    found = vaa.crop_ptycho_object_to_stem_roi(stack, params)
    assert found.shape == (17, 23, 2, 1)
    expected = image((positions + window // 2).T).reshape(9, 12)
    assert np.abs(found[::2, ::2, 0, 0] - expected).max() < (
        0.005 if probe else 0.1
    )  # else the window is a guess


def test_crop_without_positions_is_about_the_middle_and_pads_with_vacuum() -> None:
    params = {"scan_size": (5, 9), "scan_step_A": 1.0, "pixel_size_y_A": 1.0, "pixel_size_x_A": 1.0}
    o = np.arange(49.0).reshape(7, 7) + 2j
    found = vaa.crop_ptycho_object_to_stem_roi(o, params)
    np.testing.assert_allclose(found[:, 1:8], o[1:6], atol=1e-9)
    np.testing.assert_allclose(found[:, [0, 8]], 1.0)
    with pytest.raises(ParameterError, match="scan_size"):
        vaa.crop_ptycho_object_to_stem_roi(o, {"scan_step_A": 1.0})
