"""Measured patterns from arrays and files: any layout, any type, read lazily or kept in memory, with masks."""

from __future__ import annotations

import io
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from problems import N_PATTERNS, SCAN, SIDE, aperture_probe, counts, patterns, small_params, smooth_object

import pypty
from pypty.data.hdf5 import check_key, check_tree, open_hdf5
from pypty.data.own_mask import mask_in_file
from pypty.data.preprocess import Preprocess
from pypty.data.sources import ArraySource, Hdf5Source, NpySource, fingerprint, open_source
from pypty.data.survey import survey
from pypty.engine.setup import memory
from pypty.engine.setup.prepare import inspect
from pypty.errors import DataError, ParameterError, PyptyError
from pypty.params.files import load_npy, not_a_file, read_npy_header
from pypty.params.presets import load_preset
from pypty.params.reading import read_parameters
from pypty.params.report import Report
from pypty.results.result import Evaluation

FOUR_D = (*SCAN, SIDE, SIDE)


def evaluate(**changes: Any) -> Evaluation:
    """Loss and gradients away from vacuum, so that every gradient block has something to say."""
    start = {"obj": smooth_object(seed=3), "update_probe_pos": True}
    return pypty.evaluate(small_params(**{**start, **changes}))


def assert_same(one: Evaluation, other: Evaluation, tolerance: float = 0.0) -> None:
    assert one.loss == pytest.approx(other.loss, rel=tolerance, abs=0)
    assert one.sse == pytest.approx(other.sse, rel=tolerance, abs=0)
    assert one.gradients.keys() == other.gradients.keys()
    for name, gradient in one.gradients.items():
        size = np.abs(other.gradients[name]).max()
        assert np.abs(gradient - other.gradients[name]).max() <= tolerance * size


@pytest.fixture(scope="module")
def reference() -> Evaluation:
    return evaluate()


# ------------------------------------------------------------------------------------------------------- layouts


def write_h5(path: Path, array: Any, key: str = "data", **options: Any) -> dict[str, Any]:
    with h5py.File(path, "w") as file:
        file.create_dataset(key, data=array, **options)
    return {"dataset": ..., "data_path": str(path)}


def write_npy(path: Path, array: np.ndarray) -> dict[str, Any]:
    np.save(path, array)
    return {"dataset": ..., "data_path": str(path)}


LAYOUTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "array 4-D": lambda folder: {"dataset": patterns().reshape(FOUR_D)},
    "nested list": lambda folder: {"dataset": patterns().tolist()},
    "fortran order": lambda folder: {"dataset": np.asfortranarray(patterns())},
    "not contiguous": lambda folder: {"dataset": np.repeat(patterns(), 2, axis=2)[:, :, ::2]},
    "4-D not contiguous": lambda folder: {"dataset": np.asfortranarray(patterns().reshape(FOUR_D))},
    "big endian": lambda folder: {"dataset": patterns().astype(">f8")},
    "read only": lambda folder: {"dataset": np.frombuffer(patterns().tobytes()).reshape(-1, SIDE, SIDE)},
    "h5 3-D": lambda folder: write_h5(folder / "a.h5", patterns()),
    "h5 4-D": lambda folder: write_h5(folder / "a.h5", patterns().reshape(FOUR_D)),
    "h5 chunked and compressed": lambda folder: write_h5(
        folder / "a.h5", patterns(), chunks=(4, SIDE, SIDE), compression="gzip"
    ),
    "h5 4-D chunked across rows": lambda folder: write_h5(
        folder / "a.h5", patterns().reshape(FOUR_D), chunks=(2, 3, SIDE, SIDE)
    ),
    "hdf5 ending": lambda folder: write_h5(folder / "a.hdf5", patterns()),
    "capital ending": lambda folder: write_h5(folder / "a.H5", patterns()),
    "npy 3-D": lambda folder: write_npy(folder / "a.npy", patterns()),
    "npy 4-D": lambda folder: write_npy(folder / "a.npy", patterns().reshape(FOUR_D)),
    "npy fortran order": lambda folder: write_npy(folder / "a.npy", np.asfortranarray(patterns())),
    "path object": lambda folder: {**write_npy(folder / "a.npy", patterns()), "data_path": folder / "a.npy"},
    "memory map": lambda folder: {
        "dataset": np.load(write_npy(folder / "a.npy", patterns())["data_path"], mmap_mode="r")
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same(layout: str, tmp_path: Path, reference: Evaluation) -> None:
    """To the last bit, unless the order in memory makes NumPy sum in another order."""
    assert_same(evaluate(**LAYOUTS[layout](tmp_path)), reference, 1e-14 if "fortran" in layout else 0.0)


@pytest.mark.parametrize("shape", [(N_PATTERNS, SIDE, SIDE), FOUR_D], ids=["3-D", "4-D"])
def test_an_open_hdf5_dataset_may_be_given_as_dataset(
    shape: tuple[int, ...], tmp_path: Path, reference: Evaluation
) -> None:
    write_h5(tmp_path / "a.h5", patterns().reshape(shape))
    with h5py.File(tmp_path / "a.h5", "r") as file:
        assert_same(evaluate(dataset=file["data"]), reference)


@pytest.mark.parametrize("key", ["frames", "entry/data/frames", "/entry/data/frames"])
def test_any_data_key(key: str, tmp_path: Path, reference: Evaluation) -> None:
    changes = write_h5(tmp_path / "a.h5", patterns(), key=key)
    assert_same(evaluate(**changes, data_key=key), reference)


@pytest.mark.parametrize("kind", ["soft link", "hard link", "link to a group", "external link"])
def test_a_data_key_may_be_a_link(kind: str, tmp_path: Path, reference: Evaluation) -> None:
    """NeXus files are made of links."""
    changes = write_h5(tmp_path / "a.h5", patterns(), key="real/frames")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        if kind == "soft link":
            file["data"] = h5py.SoftLink("/real/frames")
        elif kind == "hard link":
            file["data"] = file["real/frames"]
        elif kind == "link to a group":
            file["entry"] = h5py.SoftLink("/real")
        else:
            with h5py.File(tmp_path / "b.h5", "w") as outer:
                outer["data"] = h5py.ExternalLink("a.h5", "/real/frames")
            changes["data_path"] = str(tmp_path / "b.h5")
    key = "entry/frames" if kind == "link to a group" else "data"
    assert_same(evaluate(**changes, data_key=key), reference)


def test_the_dataset_in_memory_wins_over_the_file(tmp_path: Path, reference: Evaluation) -> None:
    changes = write_npy(tmp_path / "a.npy", 3 * patterns())
    params = small_params(**{**changes, "dataset": patterns()})
    assert any("dataset in memory is used" in text for text in pypty.check(params).warnings)
    assert pypty.evaluate(params).loss == pypty.evaluate(small_params()).loss


# ------------------------------------------------------------------------------------------------------- reading

READS = {
    "one": [7],
    "all": list(range(N_PATTERNS)),
    "a run": list(range(3, 14)),
    "two runs": [0, 1, 2, 20, 21],
    "every other": list(range(0, N_PATTERNS, 2)),
    "last": [N_PATTERNS - 1],
    "across scan rows": [4, 5, 6, 9, 10],
}


@pytest.mark.parametrize("kind", ["array", "array 4-D", "npy", "h5", "h5 4-D"])
@pytest.mark.parametrize("name", READS)
def test_a_source_reads_contiguous_and_scattered_patterns(kind: str, name: str, tmp_path: Path) -> None:
    data = counts()
    shaped = data.reshape(FOUR_D) if "4-D" in kind else data
    if kind.startswith("array"):
        source: Any = ArraySource(shaped)
    elif kind == "npy":
        np.save(tmp_path / "a.npy", shaped)
        source = NpySource(tmp_path / "a.npy", read_npy_header(tmp_path / "a.npy"))
    else:
        write_h5(tmp_path / "a.h5", shaped)
        source = Hdf5Source.open(tmp_path / "a.h5", "data")
    found = source.read(np.array(READS[name]))
    assert np.array_equal(found, data[READS[name]])
    assert found.dtype == source.dtype == np.uint16
    assert source.shape == data.shape
    source.close()


def test_a_file_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading three patterns of an HDF5 file asks HDF5 for three patterns."""
    asked: list[int] = []
    original = h5py.Dataset.__getitem__

    def spy(self: h5py.Dataset, key: Any) -> Any:
        found = original(self, key)
        asked.append(len(found))
        return found

    monkeypatch.setattr(h5py.Dataset, "__getitem__", spy)
    write_h5(tmp_path / "a.h5", counts())
    source = Hdf5Source.open(tmp_path / "a.h5", "data")
    source.read(np.array([3, 4, 9]))
    source.close()
    assert sum(asked) == 3


def test_an_npy_file_is_read_when_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not mapped, whose pages would count as memory of the process; three patterns take one reading of three."""
    _, setup = inspect(small_params(**write_npy(tmp_path / "a.npy", patterns())))
    assert setup is not None
    assert isinstance(setup.source, NpySource)
    sizes: list[int] = []
    fill = NpySource._fill
    monkeypatch.setattr(NpySource, "_fill", lambda self, view: (sizes.append(len(view)), fill(self, view))[1])
    np.testing.assert_array_equal(setup.source.read(np.array([3, 4, 9])), patterns()[[3, 4, 9]])
    pattern = patterns()[0].nbytes
    assert sizes == [2 * pattern, pattern]
    setup.close()


def test_a_truncated_npy_file_says_so(tmp_path: Path) -> None:
    """Cut while it is open: the header promised more."""
    write_npy(tmp_path / "a.npy", patterns())
    source = open_source(
        read_parameters(small_params(dataset=..., data_path=str(tmp_path / "a.npy")), Report())
    )
    with (tmp_path / "a.npy").open("r+b") as file:
        file.truncate(4000)
    with pytest.raises(DataError, match="ends before its last pattern"):
        source.read(np.array([N_PATTERNS - 1]))
    source.close()


def test_patterns_are_cast_when_asked(tmp_path: Path) -> None:
    _, setup = inspect(small_params(**write_h5(tmp_path / "a.h5", patterns()), force_dataset_dtype="uint16"))
    assert setup is not None
    source = setup.source
    assert source.dtype == np.uint16
    assert np.array_equal(source.read(np.array([3])), patterns()[[3]].astype("uint16"))
    setup.close()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32", "bool", ">u2"])
def test_the_type_of_the_detector_is_kept_until_the_loss(dtype: str, tmp_path: Path) -> None:
    data = counts("float64").astype(dtype)
    _, setup = inspect(small_params(**write_npy(tmp_path / "a.npy", data)))
    assert setup is not None
    feed = setup.feed()
    assert feed.patterns(np.array([0, 1])).dtype == np.dtype(dtype)
    assert setup.plan.sizes.data_bytes == data.nbytes
    assert feed.batch(np.array([0, 1])).data.dtype == np.float64


@pytest.mark.parametrize("algorithm", ["lsq_sqrt", "ml", "lsq", "lsq_sqrt_2"])
@pytest.mark.parametrize(
    "dtype", ["uint8", "uint16", "uint32", "int16", "int32", "int64", "float32", ">u2", "<f4"]
)
def test_every_type_gives_the_same_loss_and_gradient(dtype: str, algorithm: str) -> None:
    other = evaluate(dataset=counts("float64"), algorithm=algorithm)
    assert_same(evaluate(dataset=counts("float64").astype(dtype), algorithm=algorithm), other, 1e-12)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int32", "float32"])
@pytest.mark.parametrize("size", [2, 3, 4])
def test_binning_small_integers_does_not_overflow(dtype: str, size: int) -> None:
    data = np.full((2, 12, 12), 120, dtype)
    assert np.array_equal(np.unique(Preprocess(bin=size).patterns(data)), [120 * size**2])


# --------------------------------------------------------------------------------------------- lazy and resident


def set_free_memory(monkeypatch: pytest.MonkeyPatch, size: float) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda backend, sharers=1: int(size))


def limit_for_patterns(monkeypatch: pytest.MonkeyPatch, params: dict[str, Any], share: float) -> None:
    """Leave, beside what one pattern at a time needs, memory for ``share`` times all patterns."""
    set_free_memory(monkeypatch, 2**40)
    plan = pypty.plan({**params, "compute_batch": 1}, show=False)
    data = plan.items["measured patterns"]
    set_free_memory(monkeypatch, (plan.total + (share - 1) * data) / 0.7 + 100)


@pytest.mark.parametrize("layout", ["array 4-D", "h5 3-D", "h5 4-D", "npy 3-D", "h5 4-D chunked across rows"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"data_bin": 2, "data_pad": 3, "flip_ky": True, "probe": aperture_probe()[::2, ::2]},
        {"detector_mask": np.tri(SIDE)},
        {"sequence": [0, 3, 4, 5, 20]},
        {"data_multiplier": 3.0},
    ],
    ids=lambda changes: ", ".join(changes) or "plain",
)
def test_lazy_and_resident_patterns_give_the_same_run(
    layout: str, changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = small_params(**LAYOUTS[layout](tmp_path), **changes)
    assert pypty.plan(params, show=False).resident
    resident = pypty.run(params)
    limit_for_patterns(monkeypatch, params, 1.5)
    assert not pypty.plan(params, show=False).resident
    lazy = pypty.run(params)
    for name in ("obj", "probe", "loss", "sse"):
        assert np.array_equal(getattr(lazy, name), getattr(resident, name)), name


def test_patterns_that_must_be_in_memory_but_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    params = small_params()
    limit_for_patterns(monkeypatch, params, 0.9)
    assert pypty.check(params), "read when needed"
    with pytest.raises(ParameterError, match="load_one_by_one=False"):
        pypty.run({**params, "load_one_by_one": False})


# --------------------------------------------------------------------------------------------------------- masks

MASK = np.ones((SIDE, SIDE))
MASK[3:6, 9:12] = 0
MASK[8, 8] = 0
WILD = {
    "NaN": np.nan,
    "inf": np.inf,
    "minus inf": -np.inf,
    "negative": -7.0,
    "huge": 1e300,
    "other counts": 123.0,
}


@pytest.mark.parametrize("algorithm", ["lsq_sqrt", "ml", "lsq", "lsq_sqrt_2"])
@pytest.mark.parametrize("value", WILD)
@pytest.mark.parametrize("per_pattern", [False, True], ids=["one mask", "a mask per pattern"])
def test_what_a_masked_pixel_holds_is_irrelevant(value: str, per_pattern: bool, algorithm: str) -> None:
    mask = np.broadcast_to(MASK, patterns().shape).copy() if per_pattern else MASK
    good, bad = patterns(), patterns()
    bad[:, MASK == 0] = WILD[value]
    changes = {"detector_mask": mask, "algorithm": algorithm}
    assert_same(evaluate(dataset=bad, **changes), evaluate(dataset=good, **changes))


@pytest.mark.parametrize("value", WILD)
@pytest.mark.parametrize(
    "probe", [None, "aperture", aperture_probe()], ids=["mean pattern", "aperture", "given"]
)
def test_a_masked_pixel_does_not_reach_a_run_either(value: str, probe: Any) -> None:
    bad = patterns()
    bad[:, MASK == 0] = WILD[value]
    changes = {"detector_mask": MASK, "probe": probe, "aperture_mask": 0.5}
    one, other = (pypty.run(small_params(dataset=data, **changes)) for data in (bad, patterns()))
    assert np.array_equal(one.obj, other.obj)
    assert np.array_equal(one.probe, other.probe)
    assert np.array_equal(one.loss, other.loss)


@pytest.mark.parametrize(
    "changes",
    [
        {"data_bin": 2, "probe": aperture_probe()[::2, ::2]},
        {"data_pad": 4},
        {"data_pad": 4, "use_padded_intensity": False},
        {"flip_ky": True},
        {"data_shift_vector": (2, -3)},
        {"data_bin": 3, "data_pad": 2, "flip_ky": True, "data_shift_vector": (1, 1), "probe": None},
    ],
    ids=lambda changes: ", ".join(changes),
)
def test_the_mask_follows_the_patterns_through_preprocessing(changes: dict[str, Any]) -> None:
    bad = patterns()
    bad[:, MASK == 0] = np.nan
    one, other = (evaluate(dataset=data, detector_mask=MASK, **changes) for data in (bad, patterns()))
    assert_same(one, other)
    assert one.loss != evaluate(**changes).loss


@pytest.mark.parametrize("skip", [True, False], ids=["probe as given", "probe scaled to the counts"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_nan_pixels_with_mask_nan_are_as_masked_by_hand(dtype: str, skip: bool) -> None:
    bad = patterns()
    bad[:, MASK == 0] = np.nan
    by_hand = evaluate(detector_mask=MASK, skip_preprocessing=skip)
    found = evaluate(dataset=bad.astype(dtype), detector_mask="nan", skip_preprocessing=skip)
    assert_same(found, by_hand, 1e-13 if dtype == "float64" else 1e-4)


@pytest.mark.parametrize("skip", [True, False], ids=["probe as given", "probe scaled to the counts"])
def test_nan_pixels_may_differ_from_pattern_to_pattern(skip: bool) -> None:
    mask = (np.random.default_rng(5).random(patterns().shape) > 0.2).astype(float)
    bad = np.where(mask > 0, patterns(), np.nan)
    by_hand = evaluate(detector_mask=mask, skip_preprocessing=skip)
    assert_same(evaluate(dataset=bad, detector_mask="nan", skip_preprocessing=skip), by_hand, 1e-13)


@pytest.mark.parametrize("mask", ["nan", "one", "per pattern"])
def test_masking_does_not_change_the_scale_of_the_probe(mask: str) -> None:
    """A fifth of the pixels is missing in every pattern: the starting probe has the electrons of all."""
    ignored = np.random.default_rng(5).random(patterns().shape) < 0.2
    if mask == "one":
        ignored[:] = ignored[0]
    bad = np.where(ignored, np.nan, patterns())
    weights: Any = {
        "nan": "nan",
        "one": (~ignored[0]).astype(float),
        "per pattern": (~ignored).astype(float),
    }[mask]
    start = {"epoch_max": 0, "probe": 5 * aperture_probe(1.0)}
    masked = pypty.run(small_params(dataset=bad, detector_mask=weights, **start)).probe
    full = pypty.run(small_params(**start)).probe
    assert np.linalg.norm(masked) == pytest.approx(np.linalg.norm(full), rel=0.02)


@pytest.mark.parametrize("layout", ["4-D array", "h5", "h5 4-D", "npy"])
def test_nan_pixels_in_files(layout: str, tmp_path: Path) -> None:
    bad = patterns()
    bad[::3, 2:4, 5] = np.nan
    expected = evaluate(dataset=bad, detector_mask="nan")
    shaped = bad.reshape(FOUR_D) if "4-D" in layout else bad
    changes = (
        {"dataset": shaped}
        if "array" in layout
        else write_npy(tmp_path / "a.npy", shaped)
        if layout == "npy"
        else write_h5(tmp_path / "a.h5", shaped)
    )
    assert_same(evaluate(**changes, detector_mask="nan"), expected)


def test_mask_nan_without_any_nan_changes_nothing(reference: Evaluation) -> None:
    assert_same(evaluate(detector_mask="nan"), reference)
    integers = evaluate(dataset=counts("uint8"))
    assert_same(evaluate(dataset=counts("uint8"), detector_mask="nan"), integers)


def test_a_mask_of_ones_changes_nothing(reference: Evaluation) -> None:
    assert_same(evaluate(detector_mask=np.ones((SIDE, SIDE))), reference)
    assert_same(evaluate(detector_mask=np.ones((N_PATTERNS, SIDE, SIDE), dtype=bool)), reference)


def test_the_loss_is_the_weighted_sum_over_pixels() -> None:
    """Against a sum written out here."""
    weights = np.linspace(0, 1, SIDE**2).reshape(SIDE, SIDE)
    params = small_params(obj=smooth_object(seed=3), detector_mask=weights, skip_preprocessing=True)
    modelled = pypty.simulate(params)
    data = patterns()
    expected = (weights * (np.sqrt(modelled) - np.sqrt(data)) ** 2).sum()
    found = pypty.evaluate(params)
    assert found.loss == pytest.approx(expected, rel=1e-12)
    assert found.sse == pytest.approx((weights * (modelled - data) ** 2).sum(), rel=1e-12)


def test_the_gradient_does_not_see_masked_pixels() -> None:
    """Only one detector pixel has weight: the gradient equals that of the sum over this pixel."""
    weights = np.zeros((SIDE, SIDE))
    weights[SIDE // 2, SIDE // 2 + 2] = 1
    params = small_params(
        obj=smooth_object(seed=3),
        detector_mask=weights,
        skip_preprocessing=True,
        update_obj=True,
        update_probe=False,
    )
    gradient = pypty.evaluate(params).gradients["obj"]
    step = 1e-6 * np.exp(1j * np.arange(gradient.size)).reshape(gradient.shape)
    plus, minus = (pypty.evaluate({**params, "obj": params["obj"] + sign * step}).loss for sign in (1, -1))
    assert (gradient.conj() * step).real.sum() == pytest.approx((plus - minus) / 2, rel=1e-6)


# -------------------------------------------------------------------------------------------- survey, fingerprint


def test_the_survey_gives_the_mean_of_the_used_patterns() -> None:
    data = counts()
    found = survey(
        ArraySource(data),
        np.array([2, 3, 9]),
        detector_mask=None,
        preprocess=Preprocess(flip_ky=True, pad=4),
        multiplier=2.0,
    )
    assert np.allclose(found.mean, 2 * data[[2, 3, 9]].mean(axis=0)[::-1], rtol=1e-14)


def test_the_survey_names_the_bad_pattern_behind_the_first_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pypty.data.survey._CHUNK_BYTES", 8 * SIDE * SIDE * 2)
    data = patterns()
    data[17, 4, 5] = -1
    with pytest.raises(ParameterError, match=r"pattern 17 at \[ky=4, kx=5\]"):
        pypty.run(small_params(dataset=data))
    with pytest.raises(ParameterError, match=r"pattern 17 at \[ky=4, kx=5\]"):
        pypty.run(small_params(dataset=data, sequence=[1, 5, 17]))


def test_a_bad_pattern_that_is_not_used_does_no_harm() -> None:
    data = patterns()
    data[17] = np.nan
    used = [k for k in range(N_PATTERNS) if k != 17]
    assert_same(evaluate(dataset=data, sequence=used), evaluate(sequence=used))


def test_a_fingerprint_tells_data_apart() -> None:
    data = counts()
    other = data.copy()
    other[-1, 0, 0] += 1
    prints = [fingerprint(ArraySource(array)) for array in (data, other, data.astype("int32"), data[:-1])]
    assert len(set(prints)) == len(prints)
    assert fingerprint(ArraySource(data.reshape(FOUR_D))) == prints[0]


def test_no_data_is_no_source() -> None:
    report, setup = inspect({"probe": aperture_probe()}, needs_data=False)
    assert report and setup is not None
    assert open_source(setup.settings) is None


@pytest.mark.parametrize(("value", "dtype"), [(-1.0, "uint16"), (np.nan, "int32"), (1e6, "uint16")])
def test_a_cast_that_would_change_values_is_refused(value: float, dtype: str) -> None:
    data = patterns().copy()
    data[3, 2, 1] = value
    with pytest.raises(ParameterError, match="force_dataset_dtype"):
        pypty.run(small_params(dataset=data, force_dataset_dtype=dtype, detector_mask="nan"))
    assert issubclass(DataError, PyptyError)


def test_a_data_set_larger_than_wanted_is_read_only_where_it_is_wanted() -> None:
    """4-D data: a few patterns of one scan row, not whole rows."""

    class Counting:
        shape, dtype, ndim = (4, 50, 16, 16), np.dtype(np.uint8), 4

        def __init__(self) -> None:
            self.read = 0

        def __getitem__(self, key: tuple) -> np.ndarray:
            row, columns = key
            self.read += columns.stop - columns.start
            return np.zeros((columns.stop - columns.start, 16, 16), np.uint8)

    from pypty.data.sources import ArraySource

    array = Counting()
    assert ArraySource(array).read(np.array([48, 49, 50, 51, 120])).shape == (5, 16, 16)
    assert array.read == 5


# ------------------------------------------------------------------------------------- what a file points to


def virtual(
    path: Path, source: Path | str, key: str = "data", shape: tuple[int, ...] = (25, SIDE, SIDE)
) -> None:
    """The patterns as a virtual data set of another file."""
    layout = h5py.VirtualLayout(shape=(25, SIDE, SIDE), dtype=patterns().dtype)
    layout[: shape[0]] = h5py.VirtualSource(str(source), key, shape=shape)
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("data", layout)


def raw(path: Path, stored_in: Path, size: int | None = None) -> None:
    """The patterns in raw storage outside of the HDF5 file."""
    stored_in.write_bytes(patterns().tobytes()[:size])
    with h5py.File(path, "w") as file:
        place = [(str(stored_in), 0, patterns().nbytes)]
        file.create_dataset("data", patterns().shape, patterns().dtype, external=place)


def problem_of(path: Path, **changes: Any) -> str:
    """What check() says about a data file."""
    report = pypty.check(small_params(dataset=..., data_path=str(path), **changes))
    assert len(report.problems) == 1, report
    return report.problems[0]


def test_a_virtual_data_set_without_its_source_is_no_zeros(tmp_path: Path) -> None:
    virtual(tmp_path / "a.h5", "gone.h5")
    with h5py.File(tmp_path / "a.h5") as file:
        assert not file["data"][...].any(), "HDF5 itself says nothing"
    assert "gone.h5" in problem_of(tmp_path / "a.h5")
    write_h5(tmp_path / "gone.h5", patterns(), key="other")
    assert "no data set 'data'" in problem_of(tmp_path / "a.h5")
    write_h5(tmp_path / "gone.h5", patterns()[:9])
    assert any(text in problem_of(tmp_path / "a.h5") for text in ("cannot be read", "incomplete"))


def test_a_part_of_a_source_that_is_too_short_is_no_zeros(tmp_path: Path) -> None:
    write_h5(tmp_path / "b.h5", patterns()[:9])
    layout = h5py.VirtualLayout(shape=patterns().shape, dtype=patterns().dtype)
    source = h5py.VirtualSource("b.h5", "data", shape=patterns().shape)
    layout[3:20] = source[3:20]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_virtual_dataset("data", layout)
    assert "needs values up to (20, 16, 16)" in problem_of(tmp_path / "a.h5")


def test_sources_with_numbers_in_their_names_are_all_looked_for(tmp_path: Path) -> None:
    for number in (0, 2):
        write_h5(tmp_path / f"b{number}.h5", patterns()[number : number + 1])
    unlimited = h5py.h5s.UNLIMITED
    with h5py.File(tmp_path / "a.h5", "w", libver="latest") as file:
        whole = h5py.h5s.create_simple((3, SIDE, SIDE), (unlimited, SIDE, SIDE))
        blocks = whole.copy()
        blocks.select_hyperslab((0, 0, 0), (unlimited, 1, 1), stride=(1, 1, 1), block=(1, SIDE, SIDE))
        options = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        options.set_virtual(blocks, b"b%b.h5", b"data", h5py.h5s.create_simple((1, SIDE, SIDE)))
        h5py.h5d.create(file.id, b"data", h5py.h5t.NATIVE_DOUBLE, whole, options)
    for present in (1, 3):  # HDF5 counts as far as there is no gap
        with h5py.File(tmp_path / "a.h5") as file:
            check_key(file, "data")
            np.testing.assert_array_equal(file["data"][...], patterns()[:present])
        write_h5(tmp_path / "b1.h5", patterns()[1:2])


@pytest.mark.parametrize("kind", ["link", "link to a link", "link in a group", "virtual", "raw"])
def test_nothing_outside_of_the_folder_is_opened_unasked(
    kind: str, tmp_path: Path, reference: Evaluation
) -> None:
    inside, outside = tmp_path / "here", tmp_path / "elsewhere"
    inside.mkdir(), outside.mkdir()
    write_h5(outside / "b.h5", patterns())
    path, key = inside / "a.h5", "data"
    if kind == "virtual":
        virtual(path, "../elsewhere/b.h5")
    elif kind == "raw":
        raw(path, outside / "b.bin")
    else:
        with h5py.File(path, "w") as file:
            file["first"] = h5py.ExternalLink(str(outside / "b.h5"), "/data")
            file["second"] = h5py.SoftLink("first")
            file["entry/scan"] = h5py.ExternalLink("../elsewhere/b.h5", "/")
        key = {"link": "first", "link to a link": "second", "link in a group": "entry/scan/data"}[kind]
    message = problem_of(path, data_key=key)
    assert str(outside) in message and "trust_external_links" in message
    assert_same(
        evaluate(dataset=..., data_path=str(path), data_key=key, trust_external_links=True), reference
    )


def test_links_and_storage_within_the_folder_need_no_consent(tmp_path: Path, reference: Evaluation) -> None:
    write_h5(tmp_path / "b.h5", patterns())
    virtual(tmp_path / "a.h5", "b.h5")
    raw(tmp_path / "c.h5", tmp_path / "c.bin")
    for name in ("a.h5", "c.h5"):
        assert_same(evaluate(dataset=..., data_path=str(tmp_path / name)), reference)


def test_sources_are_found_where_hdf5_finds_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: Evaluation
) -> None:
    """Beside the file that a link leads to, by the last part of an absolute name, and from the current folder."""
    real, work = tmp_path / "real", tmp_path / "work"
    real.mkdir(), work.mkdir()
    write_h5(real / "b.h5", patterns())
    virtual(real / "a.h5", "b.h5")
    (work / "linked.h5").symlink_to(real / "a.h5")
    assert_same(evaluate(dataset=..., data_path=str(work / "linked.h5")), reference)
    virtual(real / "moved.h5", "/where/it/was/b.h5")
    assert_same(evaluate(dataset=..., data_path=str(real / "moved.h5")), reference)
    virtual(work / "from_here.h5", "real/b.h5")
    monkeypatch.chdir(tmp_path)
    assert "outside of the folder" in problem_of(work / "from_here.h5")
    given = {"data_path": str(work / "from_here.h5"), "trust_external_links": True}
    assert_same(evaluate(dataset=..., **given), reference)


def test_raw_storage_that_is_too_short_is_no_zeros(tmp_path: Path) -> None:
    raw(tmp_path / "a.h5", tmp_path / "a.bin", size=1000)
    assert "a.bin" in problem_of(tmp_path / "a.h5") and "1000" in problem_of(tmp_path / "a.h5")
    (tmp_path / "a.bin").unlink()
    assert "there is no file" in problem_of(tmp_path / "a.h5")


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = h5py.SoftLink("/other")
        file["other"] = h5py.SoftLink("/data")
    assert "more than 16 links" in problem_of(tmp_path / "a.h5")


@pytest.mark.parametrize(("number", "size"), [(0, 0), (1, 2**64 - 16), (1, 10**6)])
def test_a_heap_of_text_without_end(number: int, size: int, tmp_path: Path) -> None:
    """HDF5 itself would not return from such a file."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = patterns()
        file["data"].attrs["units"] = "counts"  # of any length: in the heap
    open_hdf5(tmp_path / "a.h5").close()
    content = bytearray((tmp_path / "a.h5").read_bytes())
    place = content.index(b"GCOL") + 16
    content[place : place + 2], content[place + 8 : place + 16] = (
        bytes([number, 0]),
        size.to_bytes(8, "little"),
    )
    (tmp_path / "a.h5").write_bytes(content)
    with pytest.raises(DataError, match="a heap of text"):
        open_hdf5(tmp_path / "a.h5")


@pytest.mark.parametrize("within", [2048, 2500, 2**20])
def test_an_intact_heap_of_text_is_no_damage(
    within: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that is longer than what is looked at, or lies only partly in it."""
    monkeypatch.setattr("pypty.data.hdf5._HEAPS_WITHIN", within)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for number in range(20):
            file.attrs[f"text {number}"] = "counts " * 700
        file["data"] = np.ones((2, 3, 3))
    open_hdf5(tmp_path / "a.h5").close()


def test_a_mask_that_was_never_written_masks_nothing(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("entry/pixel_mask", (8, 8), "u4")
        assert mask_in_file(file, (8, 8)) is None
        file["entry/pixel_mask"][2, 3] = 1
        mask = mask_in_file(file, (8, 8))
        assert mask is not None and np.argwhere(mask).tolist() == [[2, 3]]


def test_a_tree_may_have_empty_data_sets_and_groups_of_two_names(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("mask", (8, 8), "u4")  # never written
        file["a/b"] = 1.0
        file["c"] = file["a"]
        check_tree(file)
        file["a/again"] = file["a"]
        with pytest.raises(DataError, match="lies in itself"):
            check_tree(file)


def test_links_of_results_are_not_followed_out_of_their_folder(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a/b"] = h5py.ExternalLink("/etc/hostname", "/data")
        with pytest.raises(DataError, match="hostname"):
            check_tree(file)


# ------------------------------------------------------------------------------------- what is not a file


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are not for Windows")
@pytest.mark.parametrize("ending", ["npy", "h5"])
@pytest.mark.parametrize("key", ["data_path", "positions", "phase_plate_in_h5"])
def test_a_named_pipe_is_never_opened(key: str, ending: str, tmp_path: Path) -> None:
    """Opening one would wait for another process."""
    path = tmp_path / f"a.{ending}"
    os.mkfifo(path)
    params = small_params(**{key: str(path)}, **({"dataset": ...} if key == "data_path" else {}))
    text = str(pypty.check(params))
    assert "a named pipe (FIFO)" in text or (key, ending) == ("positions", "h5")


def test_what_else_is_not_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder.npy").mkdir()
    address = socket.socket(socket.AF_UNIX)
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    address.bind("socket.npy")
    address.close()
    for path, kind in (("folder.npy", "a folder"), ("socket.npy", "a socket"), ("/dev/zero", "a device")):
        assert kind in str(not_a_file(Path(path)))
    assert "there is no file" in str(not_a_file(Path("nothing")))
    assert "cannot be read" in str(not_a_file(Path("a\0b")))
    np.save("good.npy", patterns())
    assert not_a_file(Path("good.npy")) is None


# ------------------------------------------------------------------------------------- sizes in headers


def npy_with(shape: tuple[int, ...], dtype: str = "<f8", content: bytes = b"") -> bytes:
    stream = io.BytesIO()
    header = {"shape": shape, "fortran_order": False, "descr": dtype}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue() + content


@pytest.mark.parametrize("shape", [(10**5, 10**5, 10**5), (2**70, 1, 1), (25, SIDE, SIDE), (-1, 4, 4)])
def test_a_header_is_not_believed(shape: tuple[int, ...], tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(npy_with(shape, content=bytes(100)))
    assert "its header says shape" in problem_of(tmp_path / "a.npy")
    with pytest.raises(DataError, match="its header says"):
        load_npy(tmp_path / "a.npy")
    (tmp_path / "b.yaml").write_text("positions: {file: a.npy}")
    with pytest.raises(ParameterError, match="its header says"):
        load_preset(tmp_path / "b.yaml")


def test_an_hdf5_file_has_the_bytes_of_its_shape(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("none", (25, SIDE, SIDE), "f4", chunks=(1, SIDE, SIDE))
        file.create_dataset("huge", (10**6, 10**4, 10**4), "f4", chunks=(1, 10, 10))[0, :10, :10] = 1
    for key, said in (("none", "no value of it was ever written"), ("huge", "400 bytes of it are stored")):
        started = time.perf_counter()
        assert said in problem_of(tmp_path / "a.h5", data_key=key)
        assert time.perf_counter() - started < 1


def test_a_mapped_file_is_not_needed_to_read_a_large_one(tmp_path: Path) -> None:
    """A limit of addresses (ulimit -v) would count it."""
    np.save(tmp_path / "a.npy", patterns())
    header = read_npy_header(tmp_path / "a.npy")
    assert (header.shape, header.dtype, header.in_c_order) == (patterns().shape, patterns().dtype, True)
    source = NpySource(tmp_path / "a.npy", header)
    np.testing.assert_array_equal(source.read(np.array([3, 4, 9])), patterns()[[3, 4, 9]])
    source.close()
    np.save(tmp_path / "f.npy", np.asfortranarray(patterns()))
    assert not read_npy_header(tmp_path / "f.npy").in_c_order
    np.testing.assert_array_equal(load_npy(tmp_path / "f.npy", mapped=True), patterns())
