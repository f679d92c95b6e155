"""Read parameters from files: YAML presets, params.yaml of an output folder, and (only on request) old pickles."""

from __future__ import annotations

import importlib.resources
import io
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import yaml

from pypty.errors import ParameterError
from pypty.params.kinds import FilePath


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 1e-3 as a number (YAML 1.2) and refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, (str, int, float)) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", key_node.start_mark
                )
            # Other keys may not be hashable; PyYAML reports them itself.
            seen.add(key if isinstance(key, (str, int, float)) else id(key_node))
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d[\d_]*\.?[\d_]*|\.[\d_]+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def read_value(text: str) -> Any:
    """One value, read by the rules of YAML."""
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ParameterError(f"the value {text!r} cannot be read ({error})") from error


def read_changes(pairs: Sequence[str]) -> dict[str, Any]:
    """The values of --set KEY=VALUE, read as YAML; {file: x.npy} is relative to the current folder."""
    changes = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator:
            raise ParameterError(f"--set {pair!r}: expected KEY=VALUE, for example --set epoch_max=20")
        expression = value.strip().startswith("lambda ")  # YAML would read its colon as a mapping
        changes[key.strip()] = value.strip() if expression else read_value(value)
    return resolve_files(changes, Path.cwd())


def preset_folder() -> Path:
    """The folder of the presets that come with PyPty."""
    try:
        return Path(str(importlib.resources.files("pypty.presets")))
    except ModuleNotFoundError:  # running from a source tree that is not installed
        return Path(__file__).resolve().parents[2] / "presets"


def preset_names() -> list[str]:
    """Names of the presets that come with PyPty."""
    return sorted(path.stem for path in preset_folder().glob("*.yaml"))


def load_preset(source: str | Path) -> dict[str, Any]:
    """Read parameters.

    Parameters
    ----------
    source : path of a YAML file, of an output folder (its params.yaml), or the name of a preset that comes
        with PyPty. An entry ``{file: name.npy}`` is read from beside the file; nothing is ever unpickled.

    Returns
    -------
    dict, to be edited and passed to :func:`pypty.run`

    Raises
    ------
    ParameterError
        The file does not exist, or is not a YAML mapping.
    """
    path = _parameter_file(source)
    if path.suffix in (".pkl", ".pickle"):
        raise ParameterError(
            f"{str(path)!r} is a pickle, which can run code when opened; if you trust it, read it "
            "with pypty.params.presets.import_pickle(path) and pass the dict"
        )
    content = read_yaml(path)
    if isinstance(content.get("init_params"), Mapping):
        raise ParameterError(
            f"{str(path)!r} is a parameter file of PtyRAD; 'pypty run' and 'pypty convert' read it, and in Python "
            "pypty.importers.load_params(path) gives parameters for pypty.run"
        )
    return resolve_files(content, path.parent)


def _parameter_file(source: str | Path) -> Path:
    """The parameter file that ``source`` (a path, an output folder or the name of a preset) refers to."""
    problem = FilePath().problem(source)
    if problem:
        raise ParameterError(
            f"no parameter file: {problem}; give a .yaml file, an output folder, or the name of a preset"
        )
    path = Path(source).expanduser()
    if path.is_dir():
        path = path / "params.yaml"
    if not path.exists() and str(source) in preset_names():
        path = preset_folder() / f"{source}.yaml"
    if not path.is_file():
        raise ParameterError(
            f"no parameter file {str(path)!r}; give a .yaml file, an output folder, or one of the presets "
            f"{', '.join(preset_names())}"
        )
    return path


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; raises ParameterError if the file contains anything else."""
    if path.suffix.lower() in (".h5", ".hdf5", ".npy", ".nxs"):
        raise ParameterError(
            f"{str(path)!r} is a data file, expected parameters; write a YAML file with the line "
            f"'data_path: {path.name}' (pypty.nexus.load_nexus_params reads the parameters of a NeXus file)"
        )
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (yaml.YAMLError, OSError, ValueError, RecursionError) as error:  # ValueError: bad text, bad dates
        raise ParameterError(f"{str(path)!r} cannot be read as YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ParameterError(
            f"{str(path)!r} contains a {type(content).__name__}, expected 'name: value' lines"
        )
    return content


def resolve_files(params: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Replace every ``{file: name.npy}`` by the array it names, relative to ``folder``."""
    out: dict[str, Any] = {}
    for key, value in params.items():
        if isinstance(value, Mapping) and set(value) == {"file"}:
            path = folder / str(value["file"])
            try:
                out[key] = np.load(path, allow_pickle=False, mmap_mode="r" if key == "dataset" else None)
            except (OSError, ValueError, EOFError) as error:
                raise ParameterError(
                    f"{key}: the file {str(path)!r} cannot be read as .npy ({error})"
                ) from error
        elif isinstance(value, Mapping) and set(value) == {"callable"}:
            raise ParameterError(
                f"{key}: it was a Python function ({value['callable']}), which cannot be stored; pass the "
                "parameter again, as a function or an expression of the epoch"
            )
        else:
            out[key] = value
    return out


_ALLOWED = frozenset(
    {
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("collections", "OrderedDict"),
        ("builtins", "complex"),
        ("builtins", "set"),
        ("builtins", "frozenset"),
        ("builtins", "bytearray"),
        ("builtins", "slice"),
        ("builtins", "range"),
        ("_codecs", "encode"),
        *(
            (f"numpy.{core}.multiarray", name)
            for core in ("core", "_core")
            for name in ("_reconstruct", "scalar")
        ),
        *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
    }
)


_PYTHON_2_NAMES: Mapping[str, str] = MappingProxyType({"__builtin__": "builtins"})
"""Pickle protocols 0 to 2 use the old names."""


class _ArraysOnly(pickle.Unpickler):
    """Unpickles NumPy arrays and plain containers; refuses every other class or function."""

    def find_class(self, module: str, name: str) -> Any:
        module = _PYTHON_2_NAMES.get(module, module)
        if (module, name) in _ALLOWED:
            return super().find_class(module, name)
        if module == "numpy.dtypes" and name.endswith("DType"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(
            f"it needs {module}.{name}, which is neither a NumPy array nor a plain container"
        )


def import_pickle(path: str | Path) -> dict[str, Any]:
    """Read a parameter pickle of PyPty 2.2 (params.pkl), restricted to NumPy arrays and plain containers.

    Lambdas stored as strings stay strings, to be evaluated as safe expressions; so does the text that PyPty 2.2 wrote
    for callables that it could not store.

    Raises
    ------
    ParameterError
        The file is not a pickle of a dict, or contains anything but arrays and plain containers.
    """
    path = Path(path)
    try:
        content = _ArraysOnly(io.BytesIO(path.read_bytes())).load()
    except Exception as error:
        raise ParameterError(f"the pickle {str(path)!r} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ParameterError(f"the pickle {str(path)!r} contains a {type(content).__name__}, expected a dict")
    return content
