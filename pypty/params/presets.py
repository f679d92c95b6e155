"""Read parameters from files: YAML presets, params.yaml of an output folder, and (only on request) old pickles."""

from __future__ import annotations

import importlib.resources
import io
import math
import pickle
import pickletools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import yaml

from pypty.errors import DataError, ParameterError
from pypty.params.files import load_npy, not_a_file
from pypty.params.kinds import FilePath, brief

MOST_ENTRIES = 1_000_000
"""Entries of a YAML file, each alias counted as all that it stands for."""
MOST_BYTES = 16 * 2**20
"""Size of a YAML file; arrays lie beside it."""


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 1e-3 as a number (YAML 1.2), and refuses a key given twice and aliases of aliases without
    end."""

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None and _entries(node, {}) > MOST_ENTRIES:
            raise yaml.constructor.ConstructorError(
                None, None, f"its aliases stand for more than {MOST_ENTRIES} entries", node.start_mark
            )
        return node

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


def _entries(node: yaml.Node, known: dict[int, int]) -> int:
    """Entries below a node, with aliases written out. ``known`` are those of nodes that were counted."""
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = MOST_ENTRIES + 1  # an alias that contains itself
    if isinstance(node, yaml.MappingNode):
        below = [item for pair in node.value for item in pair]
    else:
        below = node.value if isinstance(node, yaml.SequenceNode) else []
    known[id(node)] = 1 + sum(_entries(item, known) for item in below)
    return known[id(node)]


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d[\d_]*\.?[\d_]*|\.[\d_]+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def read_value(text: str) -> Any:
    """One value, read by the rules of YAML."""
    try:
        return yaml.load(text, Loader=_Loader)
    except (
        Exception
    ) as error:  # PyYAML's constructors raise many kinds for tags with wrong text, such as !!int ""
        raise ParameterError(f"the value {brief(text)} cannot be read ({error})") from error


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
    problem = not_a_file(path)
    if problem:
        what = problem if path.exists() else f"no parameter file {str(path)!r}"
        raise ParameterError(
            f"{what}; give a .yaml file, an output folder, or one of the presets {', '.join(preset_names())}"
        )
    return path


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; raises ParameterError if the file contains anything else."""
    if path.suffix.lower() in (".h5", ".hdf5", ".npy", ".nxs"):
        raise ParameterError(
            f"{str(path)!r} is a data file, expected parameters; write a YAML file with the line "
            f"'data_path: {path.name}' (pypty.nexus.load_nexus_params reads the parameters of a NeXus file)"
        )
    problem = not_a_file(path)
    if problem:
        raise ParameterError(problem)
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ParameterError(
                f"{str(path)!r} has {path.stat().st_size} bytes, more than {MOST_BYTES}: write arrays as .npy files "
                "beside it, {file: name.npy}"
            )
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except ParameterError:
        raise
    except Exception as error:  # as above, and bad text
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
                out[key] = load_npy(path, mapped=key == "dataset")
            except DataError as error:
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


def _bytearray_of(content: bytes | str = b"", *encoding: str) -> bytearray:
    """``bytearray``, but not of a number, which would make one of that many bytes."""
    if isinstance(content, int):
        raise pickle.UnpicklingError(f"it makes a bytearray of {content} zeros")
    return bytearray(content, *encoding) if isinstance(content, str) else bytearray(content)


def _empty_array(kind: type, shape: Any, *_: Any) -> np.ndarray:
    """NumPy's start of an array whose content follows."""
    if kind is not np.ndarray or math.prod(shape) != 0:
        raise pickle.UnpicklingError(f"it makes a {kind} of shape {shape} without content")
    return np.ndarray((0,), np.uint8)


class _ArraysOnly(pickle.Unpickler):
    """Unpickles NumPy arrays and plain containers; refuses every other class or function."""

    def find_class(self, module: str, name: str) -> Any:
        module = _PYTHON_2_NAMES.get(module, module)
        if (module, name) == ("builtins", "bytearray"):
            return _bytearray_of
        if name == "_reconstruct" and (module, name) in _ALLOWED:
            return _empty_array
        if (module, name) in _ALLOWED:
            return super().find_class(module, name)
        if module == "numpy.dtypes" and name.endswith("DType"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(
            f"it needs {module}.{name}, which is neither a NumPy array nor a plain container"
        )


def with_old_defaults(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of PyPty 2.2 with the defaults that it meant, where ours have other values."""
    algorithm = "lsq_sqrt" if params.get("masks") is None else "lsq_compressed"
    meant = {"algorithm": algorithm, "default_dtype": "double"}
    return {**params, **{key: value for key, value in meant.items() if not params.get(key)}}


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
    problem = not_a_file(path)
    if problem:
        raise ParameterError(f"the pickle cannot be read: {problem}")
    try:
        data = path.read_bytes()
        for _ in pickletools.genops(data):
            pass  # every length in it is compared with the size of the file
        content = _ArraysOnly(io.BytesIO(data)).load()
    except Exception as error:
        raise ParameterError(f"the pickle {str(path)!r} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ParameterError(f"the pickle {str(path)!r} contains a {type(content).__name__}, expected a dict")
    return content
