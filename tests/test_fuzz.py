"""Random input of every kind gives a good answer or a PyptyError: nothing else, in 5 s, with 1 GB.

500 inputs in every run of the tests; 10 000 new ones with  pytest -m nightly tests/test_fuzz.py
"""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fuzzing
import h5py
import numpy as np
import pytest
from detector_files import (
    EMPAD_XML,
    NION,
    counts,
    empad,
    good_blo,
    good_h5,
    good_hspy,
    good_mat,
    good_mat73,
    good_packed_tif,
    good_tif,
    write_py4dstem,
    write_rsciio,
    zarr_with,
)
from fuzzing import (
    Damage,
    Format,
    damages,
    expressions,
    guarded,
    parameters,
    spoil,
    spoiled_text,
    yaml_texts,
)
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from problems import patterns, small_params
from test_importers import DATA, shelves, write_v5, write_v73

import pypty
from pypty.engine.record.resume_checks import check_record
from pypty.errors import CheckpointError, ParameterError
from pypty.importers import load_params, load_result, params_from
from pypty.importers.command import load_parameters
from pypty.nexus import convert_to_nxs, load_nexus_params
from pypty.output.loss_log import EpochRecord
from pypty.params.expressions import compile_expression
from pypty.params.presets import import_pickle, read_changes
from pypty.readers import open_recording, read_nion_json

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="limits of memory and time are those of Linux"),
    pytest.mark.filterwarnings("ignore"),
]
CI, NIGHTLY = 500, 10_000
PTYRAD, PY4DSTEM = DATA / "ptyrad_model_iter0003.hdf5", DATA / "py4dstem_multislice.h5"
PTYRAD_YAML = (DATA / "ptyrad" / "tBL_WSe2.yml").read_text()
ZARR = "zarr.json"
_SMALL = 50 * 2**20  # bytes of a plan that is carried out, too


def read_parameters(changes: dict[Any, Any], folder: Path) -> None:
    """As ``check`` does; where there is no problem and the work is small, as ``evaluate`` does."""
    params = small_params(**{key: value for key, value in changes.items() if isinstance(key, str)})
    params.update(changes)
    report = pypty.check(params)
    assert report.problems or pypty.plan(params, show=False)
    if report and pypty.plan(params, show=False).total < _SMALL:
        pypty.evaluate(params)


def read_yaml_text(text: str, folder: Path) -> None:
    (folder / "a.yaml").write_text(text, errors="replace")
    params = load_parameters(str(folder / "a.yaml"), {})[0]
    str(pypty.check({**small_params(), **params}))


def read_expression(text: str, folder: Path) -> None:
    function = compile_expression(text)
    function(0), function(3)
    str(pypty.check(small_params(sequence=text, update_obj=text)))


def read_command(text: str, folder: Path) -> None:
    read_changes([f"epoch_max={text}", text])


def read_ptyrad_text(text: str, folder: Path) -> None:
    for ending in ("yml", "json", "toml"):
        (folder / f"p.{ending}").write_text(text, errors="replace")
        with guarded():
            load_params(folder / f"p.{ending}")


def read_data(path: Path) -> None:
    params = small_params(dataset=..., data_path=str(path))
    pypty.check(params)
    pypty.evaluate(params)


def read_recording(path: Path) -> None:
    with open_recording(path, scan_size=None) as recording:
        for number, (_, _) in enumerate(recording.chunks()):
            if number > 3:
                break


def read_result(path: Path) -> None:
    params = load_result(path).params()
    str(pypty.check({"dataset": patterns(), **params}))


def resume(folder: Path) -> None:
    pypty.run(small_params(output_folder=str(folder), resume=True, epoch_max=4))


def read_array(path: Path) -> None:
    pypty.check(small_params(positions=str(path)))


def make_run(folder: Path) -> None:
    options = {"save_iters": 3, "save_result": ["model"], "selected_figs": []}
    pypty.run(small_params(output_folder=str(folder), **options))


def make_model(path: Path) -> None:
    make_run(path.parent / "run_of_model")
    (found,) = (path.parent / "run_of_model").glob("model_iter*.h5")
    shutil.copyfile(found, path)


def make_nexus(path: Path) -> None:
    make_run(path.parent / "run_of_nexus")
    convert_to_nxs(path.parent / "run_of_nexus", path)


def make_virtual(path: Path) -> None:
    with h5py.File(path.parent / "source.h5", "w") as file:
        file["data"] = patterns()
    shape = patterns().shape
    layout = h5py.VirtualLayout(shape, patterns().dtype)
    layout[...] = h5py.VirtualSource("source.h5", "data", shape=shape)
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("data", layout)
        file["other"] = h5py.SoftLink("/data")


def make_packed(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("data", data=patterns(), chunks=(2, 16, 16), compression="gzip", shuffle=True)


def make_mrc(path: Path) -> None:
    """MRC 2014: 12 patterns of 8 x 8 pixels of 16 bits."""
    header = struct.pack("<4i", 8, 8, 12, 1).ljust(208, b"\0") + b"MAP DA\0\0"
    path.write_bytes(header.ljust(1024, b"\0") + counts("int16", (12, 8, 8)).tobytes())


def make_mib(path: Path) -> None:
    """Merlin: a header before each of 12 frames of 16 x 16 pixels."""
    text = "MQ1,{:06d},00384,01,0016,0016,U16,   1x1,01,0,0.001,0,0,0,1e2,MQ1A,2019-01-01T10:00:00.0Z,1000000ns,12,"
    frames = counts(">u2", (12, 16, 16))
    path.write_bytes(
        b"".join(
            text.format(n + 1).encode().ljust(384, b"\0") + frame.tobytes() for n, frame in enumerate(frames)
        )
    )


def make_empad(path: Path) -> None:
    empad("<f4", 9, 130).tofile(path)


def make_xml(path: Path) -> None:
    path.write_text(EMPAD_XML.format(x=3, y=3, pixel="1e-3"))
    make_empad(path.with_name("scan.raw"))


def make_pickle(path: Path) -> None:
    path.write_bytes(
        pickle.dumps({"acc_voltage": 60.0, "positions": np.ones((3, 2)), "sequence": "lambda x: x"})
    )


def written(make: Callable[[Path], Path]) -> Callable[[Path], None]:
    """A maker of detector_files, which chooses the name itself."""

    def into(path: Path) -> None:
        made = make(path.parent)
        if made != path:
            shutil.move(made, path)

    return into


FORMATS = (
    Format("npy data", "a.npy", lambda path: np.save(path, patterns()), read_data),
    Format("npy recording", "b.npy", lambda path: np.save(path, counts()), read_recording),
    Format("npy positions", "c.npy", lambda path: np.save(path, small_params()["positions"]), read_array),
    Format("HDF5 data", "a.h5", make_packed, read_data),
    Format("virtual HDF5 data", "v.h5", make_virtual, read_data),
    Format("HDF5 recording", "b.h5", written(good_h5), read_recording),
    Format("py4DSTEM recording", "c.h5", write_py4dstem, read_recording),
    Format("resume.h5", "run1", make_run, resume, "resume.h5"),
    Format("history.jsonl", "run2", make_run, resume, "history.jsonl"),
    Format("loss.csv", "run3", make_run, pypty.load_checkpoint, "loss.csv"),
    Format("co.npy", "run4", make_run, load_result, "co.npy"),
    Format("params.yaml", "run5", make_run, params_from, "params.yaml"),
    Format("model file", "model.h5", make_model, read_result),
    Format("model of PtyRAD", "ptyrad.hdf5", lambda path: shutil.copy(PTYRAD, path), read_result),
    Format("result of py4DSTEM", "py4dstem.h5", lambda path: shutil.copy(PY4DSTEM, path), read_result),
    Format("MATLAB 5 result", "a.mat", lambda path: write_v5(path, shelves()), read_result),
    Format("MATLAB 7.3 result", "a.73.mat", lambda path: write_v73(path, shelves()), read_result),
    Format("NeXus", "a.nxs", make_nexus, load_nexus_params),
    Format("pickle", "a.pkl", make_pickle, import_pickle),
    Format("MATLAB 5", "b.mat", written(good_mat), read_recording),
    Format("MATLAB 7.3", "b.73.mat", written(good_mat73), read_recording),
    Format("TIFF", "a.tif", written(good_tif), read_recording),
    Format("packed TIFF", "b.tif", written(good_packed_tif), read_recording),
    Format(
        "zarr", "a.zarr", written(lambda folder: zarr_with(lambda _: None)(folder)[0]), read_recording, ZARR
    ),
    Format("EMPAD", "a.raw", make_empad, read_recording),
    Format("EMPAD metadata", "a.xml", make_xml, read_recording),
    Format("Nion metadata", "a.json", lambda path: path.write_text(json.dumps(NION)), read_nion_json),
    Format("BLO", "a.blo", written(good_blo), read_recording),
    Format("HyperSpy", "a.hspy", written(good_hspy), read_recording),
    Format("MRC", "a.mrc", make_mrc, read_recording),
    Format("MIB", "a.mib", make_mib, read_recording),
    *(
        Format(name, file, lambda path, api=api: write_rsciio(api, path, _small(path)), read_recording)
        for name, file, api in (
            ("TVIPS", "a_000.tvips", "tvips"),
            ("MRCZ", "a.mrcz", "mrcz"),
            ("Ripple", "a.rpl", "ripple"),
        )
    ),
)
TEXTS: dict[str, tuple[Any, Callable[[Any, Path], object]]] = {
    "parameters": (parameters(), read_parameters),
    "YAML": (yaml_texts(), read_yaml_text),
    "expressions": (expressions(), read_expression),
    "command line": (st.one_of(yaml_texts(), expressions()), read_command),
    "parameters of PtyRAD": (damages(False).map(lambda d: spoiled_text(PTYRAD_YAML, d)), read_ptyrad_text),
}


def _small(path: Path) -> np.ndarray:
    return counts("uint16", (12, 8, 8))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Format], Path]:
    """Good files, each made once."""
    made: dict[str, Path] = {}
    folder = tmp_path_factory.mktemp("good")

    def path_of(form: Format) -> Path:
        if form.name not in made:
            here = folder / form.name.replace(" ", "_")
            here.mkdir()
            form.make(here / form.file)
            made[form.name] = here / form.file
        return made[form.name]

    return path_of


def _share(total: int, weight: int) -> int:
    """Inputs of one kind of ``weight``; every text counts for as much as four formats."""
    return -(-total * weight // (4 * len(TEXTS) + len(FORMATS)))


def _fuzz(total: int, weight: int, strategy: Any, check: Callable[[Any], None]) -> None:
    new = total == NIGHTLY

    @settings(
        max_examples=_share(total, weight),
        derandomize=not new,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate,),
    )
    @given(strategy)
    def run(value: Any) -> None:
        check(value)

    run()


TOTALS = [CI, pytest.param(NIGHTLY, marks=pytest.mark.nightly)]


@pytest.mark.parametrize("total", TOTALS)
@pytest.mark.parametrize("name", TEXTS)
def test_random_input(name: str, total: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    strategy, read = TEXTS[name]
    monkeypatch.chdir(tmp_path)

    def check(value: Any) -> None:
        with guarded():
            read(value, tmp_path)

    _fuzz(total, 4, strategy, check)


@pytest.mark.parametrize("total", TOTALS)
@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_damaged_file(
    form: Format, total: int, good: Callable[[Format], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = good(form)
    for beside in path.parent.iterdir():
        if beside != path and beside.is_file():
            shutil.copyfile(beside, tmp_path / beside.name)
    form.read(spoil(path, tmp_path / form.file, Damage(()), form.inner))  # the good file is read

    def check(damage: Damage) -> None:
        spoiled = spoil(path, tmp_path / form.file, damage, form.inner)
        with guarded():
            form.read(spoiled)

    _fuzz(total, 1, damages(form.is_hdf5), check)


def _spin() -> None:
    while True:
        pass


@pytest.mark.parametrize(
    ("work", "error"),
    [
        (_spin, AssertionError),
        (lambda: np.ones(2**28), MemoryError),
        (lambda: _in_other_words(lambda: np.ones(2**28)), AssertionError),
        (lambda: 1 / 0, ZeroDivisionError),
    ],
    ids=["time", "memory", "memory behind an error of ours", "another error"],
)
def test_the_guard_sees_time_memory_and_other_errors(
    work: Callable[[], object], error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzzing, "SECONDS", 0.2)
    with pytest.raises(error), guarded():
        work()
    with guarded():
        raise ParameterError("what is allowed")


def _in_other_words(work: Callable[[], object]) -> None:
    try:
        work()
    except Exception as error:
        raise ParameterError("the file is damaged") from error


# ------------------------------------------------------------------------------- values that cannot be those of a run


def _attribute(name: str, value: Any) -> Callable[[h5py.File], None]:
    return lambda file: file.attrs.__setitem__(name, value)


def _values(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[h5py.File], None]:
    def edit(file: h5py.File) -> None:
        new = change(file[name][()])
        del file[name]
        file[name] = new

    return edit


IMPOSSIBLE: dict[str, tuple[Callable[[h5py.File], None], str]] = {
    "negative epoch": (_attribute("epoch", -3), "epoch -3"),
    "huge epoch": (_attribute("epoch", 2**60), "epoch 1152921504606846976"),
    "time that is not finite": (_attribute("elapsed_s", np.nan), "elapsed time"),
    "an unknown block is frozen": (_attribute("frozen", '{"objj": 3}'), "objj"),
    "NaN in the object": (
        _values("variables/obj", lambda a: a * np.nan),
        "obj with values that are not finite",
    ),
    "an object of integers": (_values("variables/obj", lambda a: a.real.astype("i4")), "obj has dtype int32"),
    "a gradient without the object": (
        lambda file: file.__delitem__("sample/gradient/obj"),
        "fit together|refined",
    ),
    "a gradient with an axis more": (
        _values("sample/gradient/obj", lambda a: a[None]),
        "fit together|other shapes",
    ),
    "a pair that is shorter": (_values("pairs/00000/y/probe", lambda a: a[..., :-1]), "fit together"),
    "a loss that is not finite": (lambda file: file["sample"].attrs.__setitem__("value", np.inf), "the loss"),
    "numbers that are no text": (
        _attribute("monitor", '{"patience": 3, "still": {}, "told": {"obj": 1}}'),
        "told",
    ),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_a_resumed_state_is_checked(name: str, good: Callable[[Format], Path], tmp_path: Path) -> None:
    edit, said = IMPOSSIBLE[name]
    shutil.copytree(good(next(form for form in FORMATS if form.inner == "resume.h5")), tmp_path / "run")
    with h5py.File(tmp_path / "run" / "resume.h5", "r+") as file:
        edit(file)
    with pytest.raises(CheckpointError, match=said):
        resume(tmp_path / "run")


def test_all_vectors_of_other_shapes_are_noticed(good: Callable[[Format], Path], tmp_path: Path) -> None:
    """They fit each other, but not what is refined."""
    shutil.copytree(good(next(form for form in FORMATS if form.inner == "resume.h5")), tmp_path / "run")
    with h5py.File(tmp_path / "run" / "resume.h5", "r+") as file:
        names = ["sample/gradient/obj", *(f"pairs/{n}/{part}/obj" for n in file["pairs"] for part in "sy")]
        for name in names:
            _values(name, lambda array: array[..., :-1])(file)
    with pytest.raises(CheckpointError, match="other shapes than what is refined"):
        resume(tmp_path / "run")


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "1"},
        {"epoch": 1.5},
        {"epoch": 2**70},
        {"terms": {"a": "b"}},
        {"warnings": "text"},
        {"blocks": (1,)},
        {"mean_tilt_mrad": (1.0,)},
        {"optimizer": None},
        {"loss": None},
    ],
)
def test_a_record_of_an_epoch_is_checked(changes: dict[str, Any]) -> None:
    numbers = {"time_s": 1.0, "loss": 2.0, "sse": 3.0, "first_step": 1.0, "step": 1.0, "slope": -1.0}
    record = EpochRecord(epoch=0, evaluations=4, new_slope=-0.5, **numbers)
    check_record(record)
    check_record(dataclasses.replace(record, validation=None, loss=math.inf))
    with pytest.raises(ValueError, match=next(iter(changes))):
        check_record(dataclasses.replace(record, **changes))
