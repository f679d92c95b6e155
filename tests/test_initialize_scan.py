"""Positions, parts of a scan, and an object from images of it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pypty
from pypty.errors import ParameterError
from pypty.initialize import (
    create_aberrations_chunks,
    create_probe_marker_chunks,
    create_sequence_from_points,
    create_sub_sequence,
    get_grid_for_upsampled_image,
    get_offset,
    get_positions_pixel_size,
    get_ptycho_obj_from_scan,
    rotate_scan_grid,
)
from pypty.optics.scan_grid import rotation_yx, scan_grid_A

GOLDEN = Path(__file__).parent / "data" / "initialize_golden.npz"


@cache
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as file:
        return {name: file[name] for name in file.files}


def scan(size: tuple[int, int] = (9, 13), rotation: float = 20.0, **changes: Any) -> dict[str, Any]:
    """A rotated raster on unequal pixels, window 16 x 20."""
    points = scan_grid_A(size, 0.8, rotation)
    given = {
        "positions": (points - points.min(axis=0)) / np.array([0.25, 0.2]),
        "scan_size": size,
        "scan_step_A": 0.8,
        "PLRotation_deg": rotation,
        "pixel_size_y_A": 0.25,
        "pixel_size_x_A": 0.2,
        "probe": np.ones((16, 20, 1), complex),
    }
    return {**given, **changes}


def test_golden_positions_and_pixel() -> None:
    positions, pixel = get_positions_pixel_size(14, 12, 0.6, 0.125, (32, 32), rot_angle_deg=12.0)
    assert pixel == 0.25
    np.testing.assert_allclose(positions, golden()["23_out_positions"], rtol=0, atol=1e-12)


def test_flips_and_transformation_of_positions() -> None:
    plain, _ = get_positions_pixel_size(5, 4, 0.6, 0.1, (16, 16))
    flipped, _ = get_positions_pixel_size(5, 4, 0.6, 0.1, (16, 16), flip_x=True, flip_y=True)
    np.testing.assert_allclose(flipped, plain[::-1], atol=1e-12)
    matrix = np.array([[1.0, 0.2], [0.0, 1.1]])
    turned, pixels = get_positions_pixel_size(5, 4, 0.6, 0.1, (3, 12, 16), 30.0, transform_axis_matrix=matrix)
    np.testing.assert_allclose(pixels, [1 / 1.2, 1 / 1.6])
    points = scan_grid_A((4, 5), 0.6, 30.0, matrix)
    np.testing.assert_allclose(turned * pixels, points - points.min(axis=0), atol=1e-12)
    with pytest.raises(ParameterError, match="scan_step_A"):
        get_positions_pixel_size(5, 4, 0, 0.1, (16, 16))
    with pytest.raises(ParameterError, match="transform_axis_matrix"):
        get_positions_pixel_size(5, 4, 0.6, 0.1, (16, 16), transform_axis_matrix=np.eye(3))


def test_offset_is_what_moves_the_rotated_raster_to_zero() -> None:
    y, x = get_offset(5, 4, 0.6, 0.1, (16, 16), rot_angle_deg=40.0)
    positions, pixel = get_positions_pixel_size(5, 4, 0.6, 0.1, (16, 16), rot_angle_deg=40.0)
    np.testing.assert_allclose(positions[0] * pixel, [y, x], atol=1e-12)  # scan point (0, 0) is the origin
    assert get_offset(5, 4, 0.6, 0.1, (16, 16)) == (0, 0)


def test_grid_of_an_image() -> None:
    params = scan()
    pixel = np.array([0.25, 0.2])
    same = get_grid_for_upsampled_image(params, np.zeros((9, 13)), 0.8)
    np.testing.assert_allclose(same, params["positions"] * pixel, atol=1e-9)
    finer = get_grid_for_upsampled_image(params, np.zeros((30, 40)), 0.4, 6, 4)
    finer = finer.reshape(30, 40, 2)
    np.testing.assert_allclose(finer[4::2, 6::2][:9, :13].reshape(-1, 2), same, atol=1e-9)
    for image, size in ((np.zeros(3), 0.4), (np.zeros((3, 3)), 0)):
        with pytest.raises(ParameterError, match="image"):
            get_grid_for_upsampled_image(params, image, size)
    with pytest.raises(ParameterError, match="scan_size"):
        get_grid_for_upsampled_image({**params, "scan_size": (3, 3)}, np.zeros((3, 3)), 1.0)


@pytest.mark.parametrize("argument", ["angle_deg", "new_pl_rot"])
def test_rotating_gives_the_grid_of_the_new_angle(argument: str) -> None:
    """PyPty 2.2 rotates positions in the opposite direction."""
    params = scan(rotation=4.0)
    before = params["positions"].copy()
    turned = rotate_scan_grid(params, **{argument: 6.0 if argument == "angle_deg" else 10.0})
    assert turned["PLRotation_deg"] == pytest.approx(10)
    np.testing.assert_allclose(turned["positions"], scan(rotation=10.0)["positions"], atol=1e-10)
    np.testing.assert_array_equal(params["positions"], before)


def test_rotating_other_things(caplog: pytest.LogCaptureFixture) -> None:
    params = scan(rotation=170.0, obj=np.full((80, 90, 2, 1), 1j))
    params |= {"positions_correction": np.full((117, 2), 0.25)}
    turned = rotate_scan_grid(params, 20)
    assert turned["PLRotation_deg"] == pytest.approx(-170)
    assert turned["positions_correction"] is None
    np.testing.assert_array_equal(turned["obj"], np.ones((1, 1, 2, 1)))
    assert "vacuum" in caplog.text
    assert pypty.params.reading.read_parameters(turned, pypty.params.report.Report())
    for wrong in ({}, {"angle_deg": 1, "new_pl_rot": 2}):
        with pytest.raises(ParameterError, match="either"):
            rotate_scan_grid(params, **wrong)


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 13), columns=st.integers(1, 13), chop=st.integers(1, 6))
def test_blocks_have_labels_of_their_own(rows: int, columns: int, chop: int) -> None:
    params = {"scan_size": (rows, columns)}
    marked = create_aberrations_chunks(params, chop, 3)
    marker = marked["aberration_marker"].reshape(rows, columns)
    n = -(-rows // chop) * -(-columns // chop)
    assert marked["aberrations_array"].shape == (n, 3)
    assert sorted(np.unique(marker)) == list(range(n))
    blocks = {(i // chop, j // chop): marker[i, j] for i in range(rows) for j in range(columns)}
    assert all(marker[i, j] == blocks[i // chop, j // chop] for i in range(rows) for j in range(columns))
    np.testing.assert_array_equal(create_probe_marker_chunks(params, chop)["probe_marker"], marker.ravel())
    assert params == {"scan_size": (rows, columns)}


def test_wrong_blocks() -> None:
    with pytest.raises(ParameterError, match="chop_size"):
        create_probe_marker_chunks({"scan_size": (4, 4)}, 0)
    with pytest.raises(ParameterError, match="n_abs"):
        create_aberrations_chunks({"scan_size": (4, 4)}, 2, 0)
    with pytest.raises(ParameterError, match="scan_size is not given"):
        create_probe_marker_chunks({}, 2)


def test_sequences() -> None:
    params = {"scan_size": (6, 9)}
    found = create_sub_sequence(params, left=1, top=2, width=5, height=3, sub=2)["sequence"]
    grid = np.arange(54).reshape(6, 9)
    assert found == grid[2:5:2, 1:6:2].ravel().tolist()
    assert "sequence" not in params
    points = create_sequence_from_points(params, [0, 5], [8, 1], width_roi=4)
    expected = sorted({*grid[0:2, 6:9].ravel(), *grid[3:6, 0:3].ravel()})
    assert points == expected
    assert create_sequence_from_points(params, 3, 4, 1) == [3 * 9 + 4]
    dataset = np.zeros((6, 9, 4, 4))
    assert create_sub_sequence({"dataset": dataset}, 0, 0, 9, 6, 1)["sequence"] == list(range(54))
    for wrong in ((7, 0, 3, 1, 1), (0, 0, 0, 1, 1), (0, 0, 1, 1, 0), (-1, 0, 2, 2, 1)):
        with pytest.raises(ParameterError, match="part of a scan"):
            create_sub_sequence(params, *wrong)
    with pytest.raises(ParameterError, match="outside"):
        create_sequence_from_points(params, 6, 0)
    with pytest.raises(ParameterError, match="pairs"):
        create_sequence_from_points(params, [1, 2], [1])


def test_golden_object_from_scan() -> None:
    """PyPty's interpolation of its DPC image, on rounded positions, which are no affine grid any more.

    Its phase spans 7000 rad, so that only the same interpolation on the same points gives the same object.
    """
    z = golden()
    positions = np.round(z["23_out_positions"])
    params = {
        "positions": positions,
        "scan_size": (12, 14),
        "aperture_mask": np.ones((32, 32)),
        "pixel_size_x_A": 0.25,
        "pixel_size_y_A": 0.25,
    }
    obj = get_ptycho_obj_from_scan(params, array_phase=z["23_out_fft_dpc"])["obj"]
    assert obj.shape == (64, 68, 1, 1)
    np.testing.assert_allclose(obj[..., 0, 0], np.exp(1j * z["23_out_obj_from_scan_phase"]), atol=1e-9)


def smooth(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """An image in scan steps."""
    return 0.4 * np.sin(0.5 * y + 0.3) * np.cos(0.4 * x) + 0.02 * x


def test_image_lands_where_it_was_measured() -> None:
    params = scan()
    rows, columns = np.indices((9, 13))
    before = params["positions"].copy()
    out = get_ptycho_obj_from_scan(params, array_phase=smooth(rows, columns), scale_phase=2.0)
    np.testing.assert_array_equal(params["positions"], before)
    pixel = np.array([0.25, 0.2])
    obj = out["obj"][..., 0, 0]
    y, x = np.indices(obj.shape)
    origin = params["positions"][0]
    seen = (np.stack([y - 8, x - 10], -1) - origin) * pixel / 0.8 @ rotation_yx(20.0)  # scan coordinates
    inside = (seen > 0.01).all(-1) & (seen[..., 0] < 7.99) & (seen[..., 1] < 11.99)
    assert inside.sum() > 500
    np.testing.assert_allclose(
        np.angle(obj)[inside], 2 * smooth(*np.moveaxis(seen[inside], -1, 0)), atol=0.01
    )
    np.testing.assert_allclose(np.abs(obj), 1)
    needed = np.round(out["positions"]).max(axis=0) + [16, 20]
    assert obj.shape == tuple(needed.astype(int))
    assert pypty.simulate({**out, "acc_voltage": 80}).shape == (117, 16, 20)


def test_scattered_and_regular_interpolation_agree() -> None:
    params = scan()
    rows, columns = np.indices((9, 13))
    image = smooth(rows, columns)
    regular = get_ptycho_obj_from_scan(params, array_phase=image)["obj"]
    rounded = {**params, "positions": np.round(params["positions"])}
    scattered = get_ptycho_obj_from_scan(rounded, array_phase=image)["obj"]
    both = (np.angle(regular) != 0) & (np.angle(scattered) != 0)
    assert both.sum() > 500
    assert np.sqrt(np.mean((np.angle(regular) - np.angle(scattered))[both] ** 2)) < 0.1 * image.std()


@pytest.mark.parametrize("positions", ["regular", "scattered"])
def test_rim(positions: str) -> None:
    params = scan()
    if positions == "scattered":
        params["positions"] = np.round(params["positions"])
    rows, columns = np.indices((9, 13))
    image = smooth(rows, columns)
    amplitude = 0.8 + 0.01 * rows
    corner = (0, 0, 0, 0)

    def rim(fill: Any) -> complex:
        return complex(
            get_ptycho_obj_from_scan(params, array_phase=image, array_abs=amplitude, fill_value_type=fill)[
                "obj"
            ][corner]
        )

    assert rim(None) == pytest.approx(np.median(amplitude))
    assert rim("median") == pytest.approx(np.median(amplitude) * np.exp(1j * np.median(image)))
    assert rim(0) == pytest.approx(1)
    edge = rim("edge")
    values = amplitude * np.exp(1j * image)
    assert np.abs(values - edge).min() < 0.05
    assert edge != pytest.approx(rim("median"))


def test_slices_of_the_object() -> None:
    params = scan(num_slices=3, slice_distances=np.array([20.0]))
    rows, columns = np.indices((9, 13))
    phase, amplitude = 3 * smooth(rows, columns), 0.9 - 0.01 * rows
    one = get_ptycho_obj_from_scan(params, 1, phase, amplitude)
    three = get_ptycho_obj_from_scan(params, None, phase, amplitude)
    assert three["obj"].shape[2] == three["num_slices"] == 3
    np.testing.assert_allclose(three["obj"].prod(axis=2), one["obj"][:, :, 0], atol=1e-12)
    np.testing.assert_allclose(three["slice_distances"], 20)
    np.testing.assert_allclose(one["slice_distances"], 60)
    auto = get_ptycho_obj_from_scan(params, "auto", phase, scale_phase=4)
    span = np.ptp(4 * phase)
    assert auto["num_slices"] == pytest.approx(span / (0.75 * np.pi), abs=1.01)
    assert auto["slice_distances"][0] * auto["num_slices"] == pytest.approx(60)
    scaled = get_ptycho_obj_from_scan(params, 3, array_abs=amplitude, scale_abs=0.5)["obj"].prod(axis=2)
    assert np.abs(scaled).max() == pytest.approx(0.45, rel=1e-3)


def test_an_upsampled_image() -> None:
    params = scan()
    rows, columns = np.indices((25, 33))
    image = smooth((rows - 4) / 2, (columns - 4) / 2)
    grid = get_grid_for_upsampled_image(params, image, 0.4, 4, 4)
    fine = get_ptycho_obj_from_scan(params, array_phase=image, scan_array_A=grid)["obj"]
    rows, columns = np.indices((9, 13))
    coarse = get_ptycho_obj_from_scan(params, array_phase=smooth(rows, columns))["obj"]
    assert fine.shape == coarse.shape
    both = np.angle(coarse) != 0
    np.testing.assert_allclose(np.angle(fine)[both], np.angle(coarse)[both], atol=0.01)


def test_a_single_row_of_points() -> None:
    params = scan(size=(1, 20))
    out = get_ptycho_obj_from_scan(params, array_phase=np.linspace(0, 1, 20)[None, :], fill_value_type="edge")
    assert np.angle(out["obj"]).max() == pytest.approx(1, abs=0.01)
    assert np.angle(out["obj"]).min() == pytest.approx(0, abs=0.01)


def test_positions_begin_at_zero_with_the_object() -> None:
    params = scan()
    params["positions"] = params["positions"] - 7.5
    params["positions_correction"] = np.full((117, 2), 0.5)
    out = get_ptycho_obj_from_scan(params, array_phase=np.ones((9, 13)))
    np.testing.assert_allclose(out["positions"].min(axis=0), 0)
    assert out["positions_correction"] is None


def test_the_window_comes_from_the_data() -> None:
    params = scan(dataset=np.ones((9, 13, 10, 12)), data_pad=3, upsample_pattern=1)
    del params["probe"]
    out = get_ptycho_obj_from_scan(params, array_phase=np.zeros((9, 13)))
    needed = np.round(params["positions"]).max(axis=0).astype(int) + [16, 18]
    assert out["obj"].shape == (*needed, 1, 1)
    del params["dataset"]
    with pytest.raises(ParameterError, match="no patterns"):
        get_ptycho_obj_from_scan(params, array_phase=np.zeros((9, 13)))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "neither"),
        ({"array_phase": np.zeros((5, 5))}, "one value for each scan point"),
        ({"array_phase": np.zeros(117)}, "real, finite image"),
        ({"array_phase": np.full((9, 13), np.nan)}, "real, finite image"),
        ({"array_phase": np.zeros((9, 13), complex)}, "real, finite image"),
        ({"array_phase": np.zeros((9, 13)), "array_abs": np.ones((9, 12))}, "different shapes"),
        ({"array_abs": -np.ones((9, 13))}, "not negative"),
        ({"array_phase": np.zeros((9, 13)), "fill_value_type": "none"}, "fill_value_type"),
        ({"array_phase": np.zeros((9, 13)), "num_slices": "many"}, "num_slices"),
        ({"array_phase": np.zeros((9, 13)), "num_slices": 0}, "num_slices"),
        ({"array_phase": np.zeros((9, 13)), "scan_array_A": np.zeros((5, 2))}, "scan_array_A"),
    ],
)
def test_wrong_images(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ParameterError, match=text):
        get_ptycho_obj_from_scan(scan(), **options)
