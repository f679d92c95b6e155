"""Parameters from files: YAML presets, output folders, and pickles of PyPty 2.2 when asked for by name."""

from __future__ import annotations

import os
import pickle
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from problems import patterns, scan_positions, small_params

import pypty
from pypty.errors import ParameterError, PyptyError
from pypty.importers import params_from
from pypty.importers.command import load_parameters
from pypty.params import presets
from pypty.params.presets import (
    import_pickle,
    load_preset,
    preset_folder,
    preset_names,
    read_changes,
    read_value,
    with_old_defaults,
)
from pypty.params.reading import read_parameters
from pypty.params.report import Report
from pypty.params.schema import SCHEMA

# --------------------------------------------------------------------------------------------------------- YAML


def load(folder: Path, text: str) -> dict[str, Any]:
    (folder / "preset.yaml").write_text(text, encoding="utf-8")
    return load_preset(folder / "preset.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        ("-1e-3", -1e-3),
        ("+1.e+3", 1e3),
        ("2.5e-10", 2.5e-10),
        (".5e3", 500.0),
        ("1.0", 1.0),
        ("3", 3),
        (".inf", np.inf),
        ("true", True),
        ("null", None),
        ("~", None),
        ("", None),
        ("'1e-3'", "1e-3"),
        ("abc", "abc"),
        ("1e", "1e"),
        ("e5", "e5"),
        ("lambda_x", "lambda_x"),
        ("'lambda x: x>=10'", "lambda x: x>=10"),
        ("8e-9 if epoch==0 else 1", "8e-9 if epoch==0 else 1"),
        ("[1e-3, 2]", [1e-3, 2]),
        ("{from_epoch: {0: 1e-3, 10: 2}}", {"from_epoch": {0: 1e-3, 10: 2}}),
        ("Probe für Ångström", "Probe für Ångström"),
    ],
)
def test_a_value_is_read_as_written(text: str, value: Any, tmp_path: Path) -> None:
    found = load(tmp_path, f"key: {text}\n")["key"]
    assert found == value
    assert type(found) is type(value)


def test_a_path_may_be_text_or_a_path_object(tmp_path: Path) -> None:
    load(tmp_path, "epoch_max: 3\n")
    assert (
        load_preset(str(tmp_path / "preset.yaml"))
        == load_preset(tmp_path / "preset.yaml")
        == {"epoch_max": 3}
    )


def test_an_output_folder_means_its_params_yaml(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("epoch_max: 4\n")
    assert load_preset(tmp_path) == {"epoch_max": 4}


def test_anchors_and_merged_maps_work(tmp_path: Path) -> None:
    """Plain YAML that a user may write to share settings."""
    text = "defaults: &d {0: 1, 5: 0}\nupdate_obj: {from_epoch: *d}\nupdate_probe: {from_epoch: {<<: *d, 9: 1}}\n"
    found = load(tmp_path, text)
    assert found["update_obj"] == {"from_epoch": {0: 1, 5: 0}}
    assert found["update_probe"] == {"from_epoch": {0: 1, 5: 0, 9: 1}}


def test_an_array_file_is_read_from_beside_the_preset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deep").mkdir()
    np.save(tmp_path / "deep" / "scan.npy", scan_positions())
    np.save(tmp_path / "patterns.npy", patterns())
    monkeypatch.chdir(Path(__file__).parent)
    found = load(tmp_path, "positions: {file: deep/scan.npy}\ndataset: {file: patterns.npy}\n")
    assert np.array_equal(found["positions"], scan_positions())
    assert np.array_equal(found["dataset"], patterns())
    assert found["dataset"].dtype == np.float64


def test_a_reconstruction_from_a_preset_is_that_from_the_dict(tmp_path: Path) -> None:
    params = small_params()
    plain: dict[str, Any] = {}
    for key, value in params.items():
        if isinstance(value, np.ndarray):
            np.save(tmp_path / f"{key}.npy", value)
            plain[key] = {"file": f"{key}.npy"}
        else:
            plain[key] = value
    load(tmp_path, yaml.safe_dump(plain))
    from_file, from_dict = pypty.run(tmp_path / "preset.yaml"), pypty.run(params)
    assert np.array_equal(from_file.obj, from_dict.obj)
    assert np.array_equal(from_file.loss, from_dict.loss)


def test_a_data_path_in_a_preset_is_found_from_where_the_user_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "patterns.npy", patterns())
    np.save(tmp_path / "positions.npy", scan_positions())
    np.save(tmp_path / "probe.npy", small_params()["probe"])
    text = (
        "data_path: patterns.npy\npositions: {file: positions.npy}\nprobe: {file: probe.npy}\nepoch_max: 1\n"
    )
    text += "print_flag: 0\npixel_size_x_A: 4e-1\npixel_size_y_A: 4e-1\nbackend: cpu\n"
    monkeypatch.chdir(tmp_path)
    load(tmp_path, text)
    assert pypty.check("preset.yaml")
    assert len(pypty.run("preset.yaml").epochs) == 1


def test_a_pickled_array_is_never_opened(tmp_path: Path) -> None:
    np.save(tmp_path / "bad.npy", np.array([Payload(Path.touch, (tmp_path / "trace",))]), allow_pickle=True)
    with pytest.raises(ParameterError, match="obj.*bad.npy"):
        load(tmp_path, "obj: {file: bad.npy}\n")
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("ending", [".pkl", ".pickle", ".yaml"])
def test_load_preset_never_unpickles(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"params{ending}"
    path.write_bytes(pickle.dumps(Payload(Path.touch, (tmp_path / "trace",))))
    with pytest.raises(ParameterError, match="import_pickle" if ending != ".yaml" else "YAML"):
        load_preset(path)
    assert not (tmp_path / "trace").exists()


def test_a_folder_of_pypty_2_is_not_unpickled_either(tmp_path: Path) -> None:
    (tmp_path / "params.pkl").write_bytes(pickle.dumps(Payload(Path.touch, (tmp_path / "trace",))))
    with pytest.raises(ParameterError, match=r"params\.yaml"):
        load_preset(tmp_path)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object/apply:os.mkdir [{trace}]",
        "a: !!python/object/new:os.mkdir [{trace}]",
        "a: !!python/object:pathlib.Path {{}}",
        "a: !!python/name:os.system",
        "a: !!python/module:os",
        "!!python/object/apply:os.mkdir [{trace}]",
        "? !!python/object/apply:os.mkdir [{trace}]\n: 1",
    ],
)
def test_python_tags_are_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="YAML"):
        load(tmp_path, text.format(trace=tmp_path / "trace"))
    assert not (tmp_path / "trace").exists()


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.one_of(st.text(max_size=80), st.text(alphabet="ab: -[]{},#&*!|>'\"%@`\n0123456789.e", max_size=40)))
def test_random_text_gives_a_dict_or_a_parameter_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "preset.yaml").write_text(text, encoding="utf-8", errors="replace")
    try:
        assert isinstance(load_preset(tmp_path / "preset.yaml"), dict)
    except ParameterError as error:
        assert "preset.yaml" in str(error)


def test_the_presets_that_come_along_hold_known_keys_only() -> None:
    """Also true of none at all: then every name is refused, and the message can be read."""
    for name in preset_names():
        assert set(load_preset(name)) <= set(SCHEMA)
        assert load_preset(name) == load_preset(preset_folder() / f"{name}.yaml")
        report = Report()
        data = {"masks": np.ones((2, 8, 8))} if name == "virtual_detectors" else {}
        read_parameters({**load_preset(name), **data}, report)
        assert report.problems == report.warnings == []
    with pytest.raises(ParameterError, match="'no_such_preset'"):
        load_preset("no_such_preset")


# ------------------------------------------------------------------------------------------------------- pickles


class Payload:
    """Pickles to a call of any function."""

    def __init__(self, function: Any, arguments: tuple[Any, ...]) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def dump(folder: Path, content: Any, protocol: int = pickle.HIGHEST_PROTOCOL) -> Path:
    path = folder / "params.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_containers_come_back(protocol: int, tmp_path: Path) -> None:
    content = {
        "obj": np.arange(24, dtype=complex).reshape(2, 3, 4, 1),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "integers": np.arange(5, dtype="uint16"),
        "flags": np.array([True, False]),
        "text": np.array(["a", "bc"]),
        "scalar": np.float64(2.5),
        "small": np.int16(-3),
        "truth": np.bool_(True),
        "nested": {"a": [1, (2.5, None)], "b": {"c": True}},
        "ordered": OrderedDict(a=1, b=2),
        "set": {1, 2},
        "bytes": b"\x00\xff",
        "complex": 1 + 2j,
        "dtype": np.dtype("float32"),
        "lambda": "lambda x: x>=10",
        "epoch_max": 200,
    }
    found = import_pickle(dump(tmp_path, content, protocol))
    assert list(found) == list(content)
    for key, value in content.items():
        assert type(found[key]) is type(value), key
        if isinstance(value, np.ndarray):
            assert np.array_equal(found[key], value), key
            assert found[key].dtype == value.dtype, key
        else:
            assert found[key] == value, key


def test_an_imported_pickle_can_be_run(tmp_path: Path) -> None:
    found = import_pickle(dump(tmp_path, small_params(update_probe="lambda x: x>=1", epoch_max=2)))
    assert np.array_equal(
        pypty.run(found).obj, pypty.run(small_params(update_probe="lambda x: x>=1", epoch_max=2)).obj
    )


def test_what_pypty_2_meant_without_an_algorithm() -> None:
    assert with_old_defaults({"acc_voltage": 60})["algorithm"] == "lsq_sqrt"
    assert with_old_defaults({"masks": np.ones((1, 2, 2))})["algorithm"] == "lsq_compressed"
    assert with_old_defaults({"algorithm": "ml"})["algorithm"] == "ml"


def _touch(path: str) -> None:
    Path(path).touch()


ATTACKS = {
    "os.system": (os.system, ("touch {0}",)),
    "os.mkdir": (os.mkdir, ("{0}",)),
    "eval": (eval, ("open({0!r}, 'w')",)),
    "exec": (exec, ("open({0!r}, 'w')",)),
    "open": (open, ("{0}", "w")),
    "a function of this file": (_touch, ("{0}",)),
    "numpy save": (np.save, ("{0}", 1)),
    "numpy load": (np.load, ("{0}",)),
    "numpy fromfile": (np.fromfile, ("{0}",)),
    "numpy memmap": (np.memmap, ("{0}", "u1", "w+", 0, (1,))),
    "getattr": (getattr, ("{0}", "upper")),
    "import": (__import__, ("os",)),
    "Path": (Path, ("{0}",)),
    "type": (type, ("A", (), {})),
}


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("name", ATTACKS)
def test_anything_else_is_refused(name: str, protocol: int, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    function, arguments = ATTACKS[name]
    filled = tuple(text.format(str(trace)) if isinstance(text, str) else text for text in arguments)
    for content in (
        Payload(function, filled),
        {"obj": Payload(function, filled)},
        [Payload(function, filled)],
    ):
        with pytest.raises(ParameterError, match=r"params\.pkl"):
            import_pickle(dump(tmp_path, content, protocol))
    assert not trace.exists()
    assert not trace.with_suffix(".npy").exists()


def test_an_attack_inside_an_object_array_is_refused(tmp_path: Path) -> None:
    array = np.array([Payload(_touch, (str(tmp_path / "trace"),)), 1], dtype=object)
    with pytest.raises(ParameterError, match="neither a NumPy array nor a plain container"):
        import_pickle(dump(tmp_path, {"obj": array}))
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    "stream",
    [
        b"cos\nsystem\n(S'touch {0}'\ntR.",
        b"cnumpy\nos\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x0bload.__call__\x93.",
        b"\x80\x04\x8c\x05numpy\x8c\x09os.system\x93.",
        b"\x80\x04\x8c\x0cnumpy.dtypes\x8c\x1aFloat64DType.__class__.mro\x93.",
        b"\x80\x04\x8c\x0cnumpy.dtypes\x8c\x12__builtins__.DType\x93.",
        b"\x8d" + b"\x00" * 7 + b"\x80",
        b"\x80\x02" + b"(" * 200 + b"t" * 200 + b".",
        b"\x80\x04\x8c\x05numpy\x8c\x05dtype\x93(tR.",
        b"\x80\x04\x8c\x05numpy\x8c\x05dtype\x93)R)b.",
        b"\x80\x02c__builtin__\neval\n.",
        b"\x80\x02ccopyreg\n_reconstructor\n.",
    ],
)
def test_crafted_streams_are_refused(stream: bytes, tmp_path: Path) -> None:
    (tmp_path / "params.pkl").write_bytes(stream.replace(b"{0}", str(tmp_path / "trace").encode()))
    with pytest.raises(ParameterError, match=r"params\.pkl"):
        import_pickle(tmp_path / "params.pkl")
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("content", [[1], (1, 2), "text", 3, None, np.arange(3), {1, 2}])
def test_only_a_dict_is_taken(content: Any, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="expected a dict"):
        import_pickle(dump(tmp_path, content))


@pytest.mark.parametrize("cut", [0, 1, 2, 10, 40, 100, 300])
def test_a_truncated_pickle_is_refused(cut: int, tmp_path: Path) -> None:
    path = dump(tmp_path, {"obj": np.arange(40.0), "epoch_max": 3, "name": "x" * 50})
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ParameterError, match=r"params\.pkl"):
        import_pickle(path)


def test_a_missing_pickle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"gone\.pkl"):
        import_pickle(tmp_path / "gone.pkl")
    with pytest.raises(ParameterError):
        import_pickle(tmp_path)


@settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.one_of(st.binary(max_size=60), st.tuples(st.integers(0, 400), st.integers(0, 255))))
def test_random_bytes_give_a_dict_or_a_parameter_error(
    tmp_path: Path, change: bytes | tuple[int, int]
) -> None:
    """Random streams, and a good one with one byte changed."""
    if isinstance(change, bytes):
        content = change
    else:
        good = bytearray(pickle.dumps({"a": [1, (2.5, None)], "b": "text", "c": 1 + 2j, "d": {1}, "e": b"f"}))
        good[change[0] % len(good)] = change[1]
        content = bytes(good)
    (tmp_path / "params.pkl").write_bytes(content)
    try:
        assert isinstance(import_pickle(tmp_path / "params.pkl"), dict)
    except ParameterError as error:
        assert "params.pkl" in str(error)


def test_an_expression_on_the_command_line() -> None:
    """YAML would read the colon of a lambda as that of a dict."""
    assert read_changes(["update_probe_pos=lambda x: x >= 10"]) == {"update_probe_pos": "lambda x: x >= 10"}
    assert read_changes(["optimizer=lambda x: 'adam' if x<3 else 'lbfgs'"])["optimizer"].endswith("'lbfgs'")


# ----------------------------------------------------------------------------------------------- bounded work


def laughs(levels: int, width: int) -> str:
    lines = ["l0: &l0 [1.0, 2.0]"]
    lines += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * width)}]" for n in range(1, levels + 1)]
    return "\n".join([*lines, f"positions: *l{levels}"])


@pytest.mark.parametrize(
    "text",
    [
        laughs(9, 9),
        laughs(200, 2),
        "a: &a [*a, *a]",
        "a: &a {b: *a}",
        "a: &a {x: 1}\n"
        + "\n".join(
            f"{c}: &{c} {{<<: [{', '.join([f'*{p}'] * 9)}]}}"
            for p, c in zip("abcdefgh", "bcdefghi", strict=True)
        ),
    ],
    ids=[
        "nine times nine",
        "two hundred times two",
        "a list in itself",
        "a mapping in itself",
        "merged maps",
    ],
)
def test_aliases_are_bounded(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text)
    started = time.perf_counter()
    with pytest.raises(ParameterError, match="aliases stand for more than 1000000 entries"):
        load_preset(tmp_path / "a.yaml")
    with pytest.raises(ParameterError, match="cannot be read"):
        read_value(text)
    assert time.perf_counter() - started < 2


def test_some_aliases_are_fine(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(laughs(3, 4))
    assert np.shape(load_preset(tmp_path / "a.yaml")["positions"]) == (4, 4, 4, 2)


@pytest.mark.parametrize(
    "text", ["!!int ''", "!!float a", "!!timestamp a", "!!bool maybe", "9" * 5000, "!!binary é"]
)
def test_tags_with_wrong_text_are_parameter_errors(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"epoch_max: {text}")
    with pytest.raises(ParameterError, match="cannot be read"):
        load_preset(tmp_path / "a.yaml")


def test_a_file_of_many_megabytes_is_no_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presets, "MOST_BYTES", 100)
    (tmp_path / "a.yaml").write_text("x" * 101)
    with pytest.raises(ParameterError, match=r"101 bytes, more than 100: write arrays as \.npy"):
        load_preset(tmp_path / "a.yaml")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are not for Windows")
def test_a_named_pipe_is_no_parameter_file(tmp_path: Path) -> None:
    for name in ("a.yaml", "a.json", "a.toml", "a.pkl", "a.npy", "a.h5", "a.mat"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "b.yaml").write_text("positions: {file: a.npy}")
    for work in (
        lambda: pypty.run(tmp_path / "a.yaml"),
        lambda: load_preset(tmp_path / "b.yaml"),
        lambda: import_pickle(tmp_path / "a.pkl"),
        *(
            lambda name=name: params_from(tmp_path / name, True)
            for name in ("a.yaml", "a.pkl", "a.h5", "a.mat")
        ),
        *(
            lambda name=name: load_parameters(str(tmp_path / name), {})
            for name in ("a.yaml", "a.json", "a.toml")
        ),
    ):
        with pytest.raises(PyptyError, match="a named pipe"):
            work()


def test_thousands_of_unknown_keys_are_counted() -> None:
    started = time.perf_counter()
    report = pypty.check(small_params(**{f"key_{n}": n for n in range(20_000)}))
    assert time.perf_counter() - started < 3
    assert "20000 keys are not parameters; the first 20" in str(report)
    assert len(report.problems) == 21 and len(str(report)) < 10_000
    report = pypty.check(small_params(epoch_maxx=3, zzz=1))
    assert len(report.problems) == 2 and "did you mean 'epoch_max'" in str(report)


@pytest.mark.parametrize(
    "stream",
    [
        b"\x80\x02}U\x01ac__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85Rs.",
        b"\x80\x02}U\x01acnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nJ\xff\xff\xff\x7f\x85U\x01b\x87Rs.",
        b"\x80\x05}\x8c\x01a\x8e" + (2**62).to_bytes(8, "little") + b"short\x94s.",
    ],
    ids=["two billion zeros", "an array without content", "bytes that are not there"],
)
def test_a_pickle_makes_nothing_that_it_does_not_hold(stream: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(stream)
    with pytest.raises(ParameterError, match="cannot be read: (it makes|expected)") as caught:
        import_pickle(tmp_path / "a.pkl")
    assert not isinstance(caught.value.__cause__, MemoryError)
