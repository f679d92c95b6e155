"""pypty.se: each function's effect, and a bad value for each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pypty import se
from pypty.demo import demo_data
from pypty.errors import DataError, ParameterError
from pypty.params.reading import read_parameters
from pypty.params.report import Report

N = 24


def disk(radius: float = 5.0, centre: tuple[float, float] = (12.0, 12.0), n: int = N) -> np.ndarray:
    y, x = np.mgrid[:n, :n]
    return (np.hypot(y - centre[0], x - centre[1]) <= radius).astype(float)


def scan(**changes: Any) -> dict[str, Any]:
    """3 x 4 patterns: a disk of 5 pixels with 10 to 21 counts, on a background of 0 to 11."""
    data = disk() * (10.0 + np.arange(12))[:, None, None] + np.arange(12.0)[:, None, None]
    return {
        "dataset": data,
        "acc_voltage": 80.0,
        "scan_size": (3, 4),
        "scan_step_A": 0.5,
        "rez_pixel_size_A": 0.1,
        "pixel_size_x_A": 1 / (0.1 * N),
        "pixel_size_y_A": 1 / (0.1 * N),
        "bright_threshold": 0.5,
        **changes,
    }


def far_from_disk(factor: float = 1.5) -> int:
    """Pixels that are further from n//2 than ``factor`` radii of the disk's area."""
    return int((1 - disk(factor * np.sqrt(disk().sum() / np.pi))).sum())


def test_virtual_haadf_counts_what_is_far_outside_of_the_disk(tmp_path: Path) -> None:
    """Not minus the sum of everything, as PyPty's."""
    image = se.getvirtualhaadf(scan(output_folder=str(tmp_path)))
    np.testing.assert_allclose(image, np.arange(12).reshape(3, 4) * far_from_disk())
    np.testing.assert_array_equal(np.load(tmp_path / "virtual_haadf.npy"), image)


def test_virtual_haadf_refuses() -> None:
    with pytest.raises(ParameterError, match="output_folder"):
        se.getvirtualhaadf(scan())
    with pytest.raises(ParameterError, match="no dark field"):
        se.getvirtualhaadf(scan(aperture_mask=np.ones((N, N))), save=False)
    with pytest.raises(ParameterError, match="aperture"):
        se.getvirtualhaadf(scan(aperture_mask=np.zeros((N, N))), save=False)


@pytest.mark.parametrize(
    ("inner", "outer", "x", "y"), [(0, 1, 0, 0), (0.5, 2, 0, 0), (0.1, 0.3, 0.25, -0.5), (0, 0.05, 0, 0)]
)
def test_virtual_annular_detector(tmp_path: Path, inner: float, outer: float, x: float, y: float) -> None:
    params = scan(output_folder=str(tmp_path))
    image = se.get_virtual_annular_detector(params, inner, outer, True, x, y)
    rows, columns = np.mgrid[:N, :N] - N // 2
    distance = np.hypot(rows / 12 - y, columns / 12 - x)
    ring = (distance >= inner) & (distance < outer)
    np.testing.assert_allclose(image.ravel(), (params["dataset"] * ring).sum(axis=(1, 2)))
    np.testing.assert_array_equal(np.load(tmp_path / "virtual_annular_detector.npy"), image)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inner_rad": 1.0}, "inner_rad"),
        ({"inner_rad": -0.1}, "inner_rad"),
        ({"offset_x": 9.0}, "no pixel"),
        ({"save": True}, "output_folder"),
    ],
)
def test_virtual_annular_detector_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        se.get_virtual_annular_detector(scan(), **options)


def test_signals_need_patterns() -> None:
    virtual = scan(dataset=np.ones((12, 2)), masks=np.ones((2, N, N)))
    for call in (se.getvirtualhaadf, se.get_virtual_annular_detector, se.get_aperture):
        with pytest.raises(ParameterError, match="masks"):
            call(virtual)


def test_get_aperture_in_the_padded_window() -> None:
    params = scan(data_pad=3, bright_threshold=0.5)
    found = se.get_aperture(params)
    np.testing.assert_array_equal(found["aperture_mask"], np.pad(disk(), 3))
    assert "aperture_mask" not in params
    report = Report()
    read_parameters(found, report)
    report.raise_if_any()
    assert se.get_aperture(scan(bright_threshold=0.1))["aperture_mask"].all()  # the background counts here
    with pytest.raises(ParameterError, match="bright_threshold"):
        se.get_aperture(scan(bright_threshold=1.5))


@pytest.mark.parametrize("ending", [".h5", ".npy"])
@pytest.mark.parametrize("shape", [(6, 9, 8), (2, 3, 9, 8)])
def test_create_binned_dataset(tmp_path: Path, ending: str, shape: tuple[int, ...]) -> None:
    """Sums of 2 x 2 pixels, in a type that holds them; the layout of the scan stays."""
    data = np.random.default_rng(0).integers(0, 60000, shape).astype(np.uint16)
    old, new = tmp_path / f"old{ending}", tmp_path / "folder" / f"new{ending}"
    if ending == ".npy":
        np.save(old, data)
    else:
        with h5py.File(old, "w") as file:
            file["data"] = data
    se.create_binned_dataset(old, new, 2)
    if ending == ".npy":
        found = np.load(new)
    else:
        with h5py.File(new, "r") as file:
            found = file["data"][()]
    expected = data[..., :8, :].astype(int).reshape(*shape[:-2], 4, 2, 4, 2).sum(axis=(-3, -1))
    np.testing.assert_array_equal(found, expected)


def test_create_binned_dataset_refuses(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((2, 4, 4)))
    (tmp_path / "broken.npy").write_bytes(b"no array")
    for bin_ in (0, 5, 1.5):
        with pytest.raises(ParameterError, match="bin"):
            se.create_binned_dataset(tmp_path / "a.npy", tmp_path / "b.npy", bin_)
    with pytest.raises(ParameterError, match="path_new"):
        se.create_binned_dataset(tmp_path / "a.npy", tmp_path / "a.npy", 2)
    with pytest.raises(ParameterError, match="ending"):
        se.create_binned_dataset(tmp_path / "a.npy", tmp_path / "b.tif", 2)
    for name in ("missing.npy", "broken.npy"):
        with pytest.raises(DataError, match=name):
            se.create_binned_dataset(tmp_path / name, tmp_path / "b.npy", 2)
    assert not (tmp_path / "b.npy").exists()


def test_compensate_pattern_drift_brings_disks_back() -> None:
    rng = np.random.default_rng(0)
    shifts = rng.integers(-5, 6, (12, 2))
    patterns = np.stack([rng.poisson(4 * disk(centre=(12 + y, 12 + x)) + 0.1) for y, x in shifts])
    before = patterns.copy()
    found = se.compensate_pattern_drift(disk(), patterns.reshape(3, 4, N, N))
    assert found.shape == (3, 4, N, N)
    assert found.dtype == patterns.dtype
    for pattern, original, (y, x) in zip(found.reshape(12, N, N), patterns, shifts, strict=True):
        expected = np.zeros((N, N), int)
        source = original[max(y, 0) : N + min(y, 0), max(x, 0) : N + min(x, 0)]
        expected[max(-y, 0) : N + min(-y, 0), max(-x, 0) : N + min(-x, 0)] = source
        np.testing.assert_array_equal(pattern, expected)
    np.testing.assert_array_equal(patterns, before)


@pytest.mark.parametrize(
    ("aperture", "patterns"),
    [
        (np.zeros((4, 4)), np.ones((2, 4, 4))),
        (np.ones((4, 5)), np.ones((2, 4, 4))),
        (np.ones((4, 4)), np.ones((4, 4))),
    ],
)
def test_compensate_pattern_drift_refuses(aperture: np.ndarray, patterns: np.ndarray) -> None:
    with pytest.raises(ParameterError, match="aperture"):
        se.compensate_pattern_drift(aperture, patterns)


def test_hot_pixels_become_the_median_of_their_neighbours() -> None:
    data = np.random.default_rng(0).poisson(20, (10, 12, 12)).astype(np.uint16)
    hot = [(0, 0, 0), (3, 5, 6), (3, 5, 7), (9, 11, 4)]
    spoilt = data.copy()
    for place in hot:
        spoilt[place] = 60000
    before = spoilt.copy()
    percentile = 100 * (1 - 4.5 / spoilt.size)
    found = se.remove_hot_pixels(spoilt, percentile)
    untouched = np.ones(data.shape, bool)
    for place in hot:
        untouched[place] = False
    np.testing.assert_array_equal(found[untouched], data[untouched])
    assert found[0, 0, 0] == int(np.median(data[0, [0, 1, 1], [1, 0, 1]]))
    assert found.max() == data[untouched].max()
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(spoilt, before)


def test_a_hot_pixel_without_good_neighbours_takes_the_median_of_the_pattern() -> None:
    data = np.full((1, 5, 5), 2.0)
    data[0, :3, :3] = 50.0
    np.testing.assert_array_equal(se.remove_hot_pixels(data, 60.0)[0, 0, 0], 2.0)
    assert se.remove_hot_pixels(np.ones((3, 3)), 50.0).max() == 1


@pytest.mark.parametrize(
    ("data", "percentile"), [(np.ones(3), 99), (np.ones((3, 3)) * 1j, 99), (np.ones((3, 3)), 100)]
)
def test_remove_hot_pixels_refuses(data: np.ndarray, percentile: float) -> None:
    with pytest.raises(ParameterError, match="data of shape|percentile"):
        se.remove_hot_pixels(data, percentile)


@given(st.integers(0, 2), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_find_ab_finds_the_polynomial(flag: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ab = rng.normal(size=(2, (3, 6, 10)[flag]))
    xy = rng.uniform(-1, 1, (40, 2))
    uv = se.coordinate_transformation_2d(xy, ab)
    np.testing.assert_allclose(se.find_ab(*xy.T, *uv.T, trafo_flag=flag), ab, atol=1e-8)
    h = 1e-5
    moved = [
        (se.coordinate_transformation_2d(xy + step, ab) - se.coordinate_transformation_2d(xy - step, ab))
        / (2 * h)
        for step in (np.array([h, 0]), np.array([0, h]))
    ]
    area = np.abs(moved[0][:, 0] * moved[1][:, 1] - moved[0][:, 1] * moved[1][:, 0])
    np.testing.assert_allclose(se.coordinate_transformation_2d_areamag(xy, ab), area, atol=1e-7)


def test_the_order_of_the_terms() -> None:
    ab = np.zeros((2, 10))
    ab[0] = np.arange(10)
    x, y = 2.0, 3.0
    expected = (
        x * 1
        + y * 2
        + x * x * 3
        + x * y * 4
        + y * y * 5
        + x**3 * 6
        + x * x * y * 7
        + x * y * y * 8
        + y**3 * 9
    )
    np.testing.assert_allclose(se.coordinate_transformation_2d(np.array([x, y]), ab), [expected, 0])


def test_polynomial_maps_refuse() -> None:
    points = np.random.default_rng(0).normal(size=(4, 9))
    with pytest.raises(ParameterError, match="trafo_flag"):
        se.find_ab(*points, trafo_flag=3)
    with pytest.raises(ParameterError, match="do not determine"):
        se.find_ab(*points)
    with pytest.raises(ParameterError, match="values"):
        se.find_ab(points[0], points[1], points[2], points[3][:5], 0)
    for call in (se.coordinate_transformation_2d, se.coordinate_transformation_2d_areamag):
        with pytest.raises(ParameterError, match="ab"):
            call(np.ones((3, 2)), np.ones((2, 4)))
        with pytest.raises(ParameterError, match="xy"):
            call(np.ones(3), np.ones((2, 3)))


def smooth_image(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    return 3 + np.sin(0.3 * x + 0.1 * y) + np.cos(0.2 * y)


def test_unwarp_im_gives_the_values_themselves() -> None:
    """PyPty returns (I + 2) exp(-2) instead of I."""
    y, x = np.mgrid[:30, :34].astype(float)
    image = smooth_image(y, x)
    identity = np.array([[0, 1, 0], [0, 0, 1.0]])
    for method in ("nearest", "linear", "cubic"):
        np.testing.assert_allclose(se.unwarp_im(image, identity, method), image, atol=1e-12)
    shrunk = np.array([[2.0, 0.8, 0.05], [3.0, -0.04, 0.7]])
    expected = smooth_image(3 - 0.04 * x + 0.7 * y, 2 + 0.8 * x + 0.05 * y)
    found = se.unwarp_im(image, shrunk, "cubic")
    np.testing.assert_allclose(found[6:-6, 2:-6], expected[6:-6, 2:-6], atol=2e-3)
    with pytest.raises(ParameterError, match="method"):
        se.unwarp_im(image, identity, "magic")


def test_fit_vector_field_goes_through_its_points() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0, 10, (2, 15))
    u, v = 1 + 0.2 * x - 0.1 * y, np.sin(x / 4)
    np.testing.assert_allclose(se.fit_vector_field(x, y, u, v, x, y), np.stack([u, v], axis=1), atol=1e-8)
    grid = np.meshgrid(np.arange(4.0), np.arange(5.0))
    field = se.fit_vector_field(x, y, u, v, *grid)
    assert field.shape == (5, 4, 2)
    np.testing.assert_allclose(
        field[..., 0], 1 + 0.2 * grid[0] - 0.1 * grid[1], atol=1e-8
    )  # planes are exact


def test_fit_vector_field_refuses() -> None:
    with pytest.raises(ParameterError, match="at least 3"):
        se.fit_vector_field(*np.ones((4, 2)), np.ones(2), np.ones(2))
    line = np.arange(5.0)
    with pytest.raises(ParameterError, match="line"):
        se.fit_vector_field(line, line, line, line, line, line)


def constant_field(u: float, v: float, shape: tuple[int, int] = (20, 26)) -> np.ndarray:
    return np.broadcast_to(np.array([u, v]), (*shape, 2))


def test_warp_image_reads_at_the_displaced_place() -> None:
    image = np.random.default_rng(0).normal(size=(20, 26))
    moved = se.warp_image(image, constant_field(3, -2))
    np.testing.assert_allclose(moved[2:, :-3], image[:-2, 3:])
    np.testing.assert_array_equal(moved[:2], 0)
    square = image[:, :20]
    turned = se.warp_image(square, constant_field(0, 0, (20, 20)), 1, 90)
    np.testing.assert_allclose(turned[1:-1, 1:-1], np.rot90(square, 1)[1:-1, 1:-1], atol=1e-9)
    assert se.warp_image(image + 1j, constant_field(0, 0)).dtype.kind == "c"


@pytest.mark.parametrize("shape", [(20, 26), (21, 33)])
def test_images_are_turned_about_their_own_centre(shape: tuple[int, int]) -> None:
    """Not square: the centre is ((rows - 1)/2, (columns - 1)/2), and half a turn reverses both axes."""
    image = np.random.default_rng(0).normal(size=shape)
    turned = se.warp_image(image, constant_field(0, 0, shape), 1, 180)
    np.testing.assert_allclose(turned[1:-1, 1:-1], image[::-1, ::-1][1:-1, 1:-1], atol=1e-9)
    rows, columns = se.warped_coordinates(constant_field(0, 0, shape), 90)
    y, x = np.mgrid[: shape[0], : shape[1]]
    middle_y, middle_x = (shape[0] - 1) / 2, (shape[1] - 1) / 2
    np.testing.assert_allclose(rows - middle_y, x - middle_x, atol=1e-9)  # x towards y
    np.testing.assert_allclose(columns - middle_x, middle_y - y, atol=1e-9)


def test_a_displacement_is_turned_with_the_place_where_it_is() -> None:
    rows, columns = se.warped_coordinates(constant_field(2, 5, (20, 26)), 90)
    still_rows, still_columns = se.warped_coordinates(constant_field(0, 0, (20, 26)), 90)
    np.testing.assert_allclose(rows - still_rows, 2, atol=1e-9)
    np.testing.assert_allclose(columns - still_columns, -5, atol=1e-9)


@pytest.mark.parametrize(
    ("shape", "field", "order"),
    [
        ((20, 25), constant_field(0, 0), 1),
        ((20, 26), np.zeros((20, 26)), 1),
        ((20, 26), constant_field(np.nan, 0), 1),
        ((20, 26), constant_field(0, 0), 6),
    ],
)
def test_warp_image_refuses(shape: tuple[int, int], field: np.ndarray, order: int) -> None:
    with pytest.raises(ParameterError, match="vector_field|order"):
        se.warp_image(np.ones(shape), field, order)


def test_compose_fields_is_one_warp_after_the_other() -> None:
    y, x = np.mgrid[:40, :44].astype(float)
    first = np.stack([1.5 * np.sin(y / 9), 1 + np.cos(x / 8)], axis=-1)
    second = np.stack([0.8 * np.cos(x / 7), 0.6 * np.sin(y / 10)], axis=-1)
    image = smooth_image(y, x)
    twice = se.warp_image(se.warp_image(image, first, 3), second, 3)
    once = se.warp_image(image, se.compose_fields(first, second, 3), 3)
    np.testing.assert_allclose(once[8:-8, 8:-8], twice[8:-8, 8:-8], atol=2e-3)
    other = se.warp_image(image, se.compose_fields(second, first, 3), 3)
    assert np.abs(other - twice)[5:-5, 5:-5].max() > 0.02  # the order matters
    with pytest.raises(ParameterError, match="fields"):
        se.compose_fields(first, second[1:])
    with pytest.raises(ParameterError, match="order"):
        se.compose_fields(first, second, 9)


@pytest.mark.parametrize("batches", [1, 3, 50])
def test_warp_images_batch_warps_each(batches: int) -> None:
    images = np.random.default_rng(0).normal(size=(7, 20, 26))
    field = constant_field(0.5, 1.25)
    expected = np.stack([se.warp_image(image, field, 3, 10.0) for image in images])
    np.testing.assert_allclose(se.warp_images_batch(images, field, batches, None, None, 3, 10.0), expected)
    rows, columns = se.warped_coordinates(field, 10.0)
    np.testing.assert_allclose(se.warp_images_batch(images, None, batches, rows, columns, 3, 0.0), expected)


@pytest.mark.parametrize(
    ("images", "field", "batches", "rows"),
    [
        (np.ones((20, 26)), constant_field(0, 0), 2, None),
        (np.ones((3, 20, 26)), constant_field(0, 0), 0, None),
        (np.ones((3, 20, 26)), None, 2, None),
        (np.ones((3, 20, 26)), None, 2, np.ones((4, 4))),
    ],
)
def test_warp_images_batch_refuses(images: np.ndarray, field: Any, batches: int, rows: Any) -> None:
    columns = None if rows is None else np.ones((4, 5))
    with pytest.raises(ParameterError, match="images|vector_field|differ"):
        se.warp_images_batch(images, field, batches, rows, columns, 1, 0.0)


@pytest.mark.parametrize("shape", [(7, 20, 26), (2, 3, 20, 26)])
def test_unwarp_4dstem_batch(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """From memory or a file, to memory or a file; the batch need not divide the number of patterns."""
    data = np.random.default_rng(0).poisson(30, shape).astype(np.uint16)
    field = constant_field(0.5, -1.0)
    expected = np.stack([se.warp_image(p.astype(np.float32), field, 3) for p in data.reshape(-1, 20, 26)])
    found = se.unwarp_4dstem_batch(data, None, field, 4, 3, return_data=True)
    assert found is not None
    np.testing.assert_allclose(found, expected.reshape(shape), atol=1e-4)
    np.save(tmp_path / "old.npy", data)
    new = tmp_path / "folder" / "new.npy"
    assert se.unwarp_4dstem_batch(tmp_path / "old.npy", new, field, 4, 3) is None
    np.testing.assert_array_equal(np.load(new), found)
    again = se.unwarp_4dstem_batch(data, new, field, 100, 3, return_data=True)
    np.testing.assert_array_equal(again, found)


def test_unwarp_4dstem_batch_refuses(tmp_path: Path) -> None:
    data, field = np.ones((3, 20, 26)), constant_field(0, 0)
    np.save(tmp_path / "old.npy", data)
    with pytest.raises(ParameterError, match="nothing to do"):
        se.unwarp_4dstem_batch(data, None, field)
    with pytest.raises(ParameterError, match="vector_field"):
        se.unwarp_4dstem_batch(data, tmp_path / "new.npy")
    with pytest.raises(ParameterError, match="do not fit"):
        se.unwarp_4dstem_batch(data[:, 1:], None, field, return_data=True)
    with pytest.raises(ParameterError, match="path_numpy_new"):
        se.unwarp_4dstem_batch(tmp_path / "old.npy", tmp_path / "old.npy", field)
    with pytest.raises(DataError, match=r"missing\.npy"):
        se.unwarp_4dstem_batch(tmp_path / "missing.npy", tmp_path / "new.npy", field)


def mos2(size: int = 32) -> dict[str, Any]:
    """A corner of the MoS2 data of the package; its scan is not rotated."""
    with h5py.File(demo_data(), "r") as file:
        about = dict(file.attrs)
        data = file["data"][()].reshape(32, 32, 64, 64)[:size, :size]
    return {
        "dataset": data,
        "acc_voltage": float(about["voltage_kV"]),
        "scan_step_A": float(about["scan_step_A"]),
        "rez_pixel_size_A": 1 / float(about["window_A"]),
        "pixel_size_x_A": float(about["pixel_size_A"]),
        "pixel_size_y_A": float(about["pixel_size_A"]),
        "extra_probe_defocus": float(about["C10_A"]),
    }


def test_the_contrast_is_largest_at_the_rotation_of_the_scan(caplog: pytest.LogCaptureFixture) -> None:
    params = mos2(20)
    right = se.get_neg_contrast_ptycho([0.0], params, False)
    assert not caplog.records
    assert right < 0
    for angle in (-20.0, 20.0, 180.0):
        assert right < 1.3 * se.get_neg_contrast_ptycho(np.array([angle]), params, False)
    with caplog.at_level("INFO", logger="pypty"):
        se.get_neg_contrast_ptycho(0.0, params, True)
    assert "contrast" in caplog.text
    with pytest.raises(ParameterError, match="a single angle"):
        se.get_neg_contrast_ptycho([0.0, 1.0], params, False)


@pytest.mark.parametrize("turns", [*(pytest.param(n, marks=pytest.mark.nightly) for n in (0, 1)), 3])
def test_the_twist_angle_of_mos2(turns: int) -> None:
    """Patterns turned by quarters: rows towards columns by 90 degrees makes PLRotation_deg smaller by 90."""
    params = mos2(20)
    shifted = np.fft.ifftshift(params["dataset"], axes=(2, 3))
    for _ in range(turns):  # about the zero frequency: k -> (kx, -ky)
        shifted = np.roll(np.flip(np.swapaxes(shifted, 2, 3), 3), 1, axis=3)
    turned = {**params, "dataset": np.fft.fftshift(shifted, axes=(2, 3))}
    found = se.find_twist_angle_ptycho_from_contrast(turned, 45.0, False)
    expected = 90.0 * turns
    assert (found - expected + 180) % 360 - 180 == pytest.approx(0, abs=0.5)
    assert -180 < found <= 180
    report = Report()
    read_parameters({**turned, "PLRotation_deg": found}, report)
    report.raise_if_any()


def test_the_twist_angle_stays_within_bounds() -> None:
    found = se.find_twist_angle_ptycho_from_contrast(mos2(16), 12.0, False, [(10.0, 25.0)])
    assert 10 <= found < 11


@pytest.mark.parametrize(
    ("x0", "bounds", "message"),
    [
        (0, [(10, 20)], "x0"),
        (0, [(20, -10)], "bounds"),
        (0, [(0, 10), (0, 10)], "bounds"),
        (0, [(0, np.inf)], "bounds"),
    ],
)
def test_find_twist_angle_refuses(x0: float, bounds: Any, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        se.find_twist_angle_ptycho_from_contrast(mos2(4), x0, False, bounds)
