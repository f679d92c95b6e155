"""create_pypty_data: what happens to the patterns, from what, and when it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from calibration_data import flat_scan
from hypothesis import given, settings
from hypothesis import strategies as st

from pypty.errors import DataError, ParameterError
from pypty.initialize import create_pypty_data, pypty_data


def written(path: Path) -> np.ndarray:
    with h5py.File(path) as file:
        return file["data"][()]


def made(tmp_path: Path, data: Any, **options: Any) -> np.ndarray:
    path = tmp_path / "out.h5"
    assert create_pypty_data(data, path, exist_ok=False, **options) == path
    assert [item.name for item in tmp_path.iterdir() if item.name.endswith(".tmp")] == []
    return written(path)


def counts(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 60, shape).astype(np.uint16)


STAY = {"comx": 0, "comy": 0}


@pytest.mark.parametrize("kind", ["4-D array", "3-D array", "npy", "h5", "h5 data set", "tif"])
def test_sources(tmp_path: Path, kind: str) -> None:
    data = counts(3, 4, 6, 8)
    flat = data.reshape(12, 6, 8)
    if kind == "4-D array":
        out = made(tmp_path, data, **STAY)
    elif kind == "3-D array":
        out = made(tmp_path, flat, **STAY)
    elif kind == "npy":
        np.save(tmp_path / "in.npy", data)
        out = made(tmp_path, str(tmp_path / "in.npy"), **STAY)
    elif kind == "tif":
        tifffile = pytest.importorskip("tifffile")
        tifffile.imwrite(tmp_path / "in.tif", flat)
        out = made(tmp_path, tmp_path / "in.tif", scan_size=(3, 4), **STAY)
    else:
        with h5py.File(tmp_path / "in.h5", "w") as file:
            file["stack"] = data
        if kind == "h5":
            out = made(tmp_path, tmp_path / "in.h5", data_key="stack", **STAY)
        else:
            with h5py.File(tmp_path / "in.h5") as file:
                out = made(tmp_path, file["stack"], **STAY)
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out, flat)


def test_the_input_is_not_changed(tmp_path: Path) -> None:
    data = counts(2, 3, 8, 8).astype(float)
    data[0, 0, 0, 0] = -5
    before = data.copy()
    out = made(tmp_path, data, comx=1, comy=1, bin=2, normalize=True, rescale=3)
    np.testing.assert_array_equal(data, before)
    assert out.min() >= 0


@settings(max_examples=25, deadline=None)
@given(
    ky=st.integers(6, 11),
    kx=st.integers(6, 11),
    flips=st.tuples(st.booleans(), st.booleans(), st.booleans(), st.booleans()),
    swap=st.booleans(),
    bin_=st.integers(1, 2),
    pad=st.integers(0, 2),
    crop=st.integers(0, 1),
)
def test_against_a_plain_computation(
    tmp_path_factory: pytest.TempPathFactory,
    ky: int,
    kx: int,
    flips: tuple[bool, bool, bool, bool],
    swap: bool,
    bin_: int,
    pad: int,
    crop: int,
) -> None:
    data = counts(3, 2, ky, kx)
    options = dict(zip(("flip_y", "flip_x", "flip_ky", "flip_kx"), flips, strict=True))
    out = made(
        tmp_path_factory.mktemp("plain"),
        data,
        swap_axes=swap,
        bin=bin_,
        pad_k=pad,
        crop_left=crop,
        crop_right=crop,
        comx=1,
        comy=-1,
        **options,
    )
    wanted = np.flip(data, [axis for axis, flip in enumerate(flips) if flip]).astype(float)
    wanted = (wanted.swapaxes(2, 3) if swap else wanted).reshape(6, *((kx, ky) if swap else (ky, kx)))
    wanted = np.roll(wanted, (1, -1), axis=(1, 2))
    wanted[:, 0, :] = wanted[:, :, -1] = 0
    wanted = wanted[:, :, crop : wanted.shape[2] - crop]
    ny, nx = (n // bin_ for n in wanted.shape[1:])
    wanted = wanted[:, : ny * bin_, : nx * bin_].reshape(6, ny, bin_, nx, bin_).sum(axis=(2, 4))
    np.testing.assert_array_equal(out, np.pad(wanted, ((0, 0), (pad, pad), (pad, pad))))


@pytest.mark.parametrize("shape", [(16, 16), (15, 17), (16, 21)])
@pytest.mark.parametrize("offset", [(0, 0), (2, -3), (-1, 4)])
def test_the_disk_lands_on_the_zero_frequency(
    tmp_path: Path, shape: tuple[int, int], offset: tuple[int, int]
) -> None:
    y, x = (np.arange(n) - n // 2 for n in shape)
    disk = (np.hypot(y[:, None] - offset[0], x[None, :] - offset[1]) < 2.6).astype(float)
    out = made(tmp_path, np.broadcast_to(disk, (2, 3, *shape)))
    centred = (np.hypot(y[:, None], x[None, :]) < 2.6).astype(float)
    np.testing.assert_array_equal(out, np.broadcast_to(centred, out.shape))


def test_cutoff_normalisation_and_scale(tmp_path: Path) -> None:
    data = counts(2, 3, 12, 12)
    out = made(tmp_path, data, cutoff_ratio=0.5, normalize=True, **STAY)
    y, x = np.indices((12, 12)) - 6
    np.testing.assert_array_equal(out > 0, (data.reshape(6, 12, 12) > 0) & (np.hypot(y, x) < 3))
    assert out.sum(axis=(1, 2)).mean() == pytest.approx(1)
    np.testing.assert_allclose(made(tmp_path, data, rescale=4, **STAY), data.reshape(6, 12, 12) / 4)


def test_integers_are_rounded_and_never_overflow(tmp_path: Path) -> None:
    data = np.full((1, 2, 4, 4), 100, np.uint16)
    out = made(tmp_path, data, data_dtype=np.uint8, rescale=3, **STAY)
    assert out.dtype == np.uint8
    assert (out == 33).all()
    with pytest.raises(DataError, match="do not fit data_dtype"):
        made(tmp_path, data, data_dtype=np.uint8, bin=2, **STAY)


def test_pieces_make_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = counts(5, 7, 10, 10)
    options: dict[str, Any] = {"flip_y": True, "normalize": True, "cutoff_ratio": 0.9}
    whole = made(tmp_path, data, **options)
    monkeypatch.setattr(pypty_data, "_CHUNK_BYTES", 4 * 8 * 100 * 3)  # three patterns
    largest = []
    raw = pypty_data._Steps.raw

    def watched(*arguments: Any, **more: Any) -> Any:
        for indices, patterns in raw(*arguments, **more):
            largest.append(len(patterns))
            yield indices, patterns

    monkeypatch.setattr(pypty_data._Steps, "raw", watched)
    np.testing.assert_allclose(made(tmp_path, data, **options), whole, rtol=1e-6)
    assert max(largest) == 3


def test_an_existing_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = counts(2, 3, 8, 8)
    path = create_pypty_data(data, tmp_path / "a.h5", **STAY)
    before = path.read_bytes()
    create_pypty_data(data + 1, path)
    assert path.read_bytes() == before
    assert "is kept" in caplog.text
    with pytest.raises(DataError, match=r"expected \(6, 4, 4\)"):
        create_pypty_data(data, path, bin=2)
    path.write_bytes(b"text")
    with pytest.raises(DataError, match="cannot be opened as HDF5"):
        create_pypty_data(data, path)
    create_pypty_data(data + 1, path, exist_ok=False, **STAY)
    np.testing.assert_array_equal(written(path), data.reshape(6, 8, 8) + 1)


def test_a_failure_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        create_pypty_data(np.full((2, 2, 4, 4), 300.0), tmp_path / "a.h5", data_dtype=np.uint8, **STAY)
    assert list(tmp_path.iterdir()) == []


def test_uneven_crops_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made(tmp_path, counts(1, 2, 8, 8), crop_left=1, **STAY)
    assert "leaves pixel n//2" in caplog.text


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"bin": 0}, "bin is 0"),
        ({"bin": 9}, "leave nothing"),
        ({"pad_k": -1}, "pad_k"),
        ({"crop_top": -1}, "crops"),
        ({"crop_top": 4, "crop_bottom": 4}, "leave nothing"),
        ({"rescale": 0}, "rescale"),
        ({"cutoff_ratio": 0.0}, "cutoff_ratio"),
        ({"data_dtype": complex}, "data_dtype"),
    ],
)
def test_wrong_arguments(tmp_path: Path, options: dict[str, Any], text: str) -> None:
    with pytest.raises(ParameterError, match=text):
        made(tmp_path, counts(2, 2, 8, 8), **options)


def test_wrong_data(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="flip_y and flip_x"):
        made(tmp_path, counts(4, 8, 8), flip_y=True)
    with pytest.raises(DataError, match="there is no file"):
        made(tmp_path, tmp_path / "missing.npy")
    with pytest.raises(DataError, match="no counts"):
        made(tmp_path, np.zeros((2, 2, 8, 8)))
    with pytest.raises(DataError, match="normalised"):
        made(tmp_path, np.zeros((2, 2, 8, 8)), normalize=True, **STAY)
    (tmp_path / "broken.npy").write_bytes(b"\x93NUMPY nothing")
    with pytest.raises(DataError):
        made(tmp_path, tmp_path / "broken.npy")


def test_create_pypty_data_does_not_replace_what_it_reads(tmp_path: Path) -> None:
    path = tmp_path / "raw.h5"
    with h5py.File(path, "w") as file:
        file["data"] = flat_scan()["dataset"]
    before = path.read_bytes()
    with pytest.raises(ParameterError, match="which is the input file; give another path"):
        create_pypty_data(path, path, bin=2, exist_ok=False)
    with h5py.File(path) as file, pytest.raises(ParameterError, match="the input file"):
        create_pypty_data(file["data"], path, exist_ok=False)
    assert path.read_bytes() == before
