"""Read and write parameters as YAML files with arrays beside them, without pickles."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import yaml

from pypty.compat.utils.epochs import lambda_to_string
from pypty.errors import ParameterError
from pypty.output.files import make_folder, write_array, write_text
from pypty.params.presets import load_preset, read_yaml
from pypty.params.schedule import make_schedule
from pypty.params.schema import SCHEMA

_log = logging.getLogger(__name__)
_INLINE = 16
_PICKLES = (".pkl", ".pickle")
_HEADER = "# Parameters of PyPty; pypty explain KEY  describes a key.\n"


def load_params(path: str | Path) -> dict[str, Any]:
    """Parameters from a .yaml file, an output folder, or the name of a preset (:func:`pypty.load_preset`).

    The name of a pickle that does not exist stands for the .yaml file beside it, as :func:`save_params` and runs write
    it.

    Raises
    ------
    ParameterError
        The file does not exist, cannot be read, or is a pickle, which can run code when opened.
    """
    named = Path(path).expanduser()
    if named.suffix.lower() in _PICKLES and not named.exists() and named.with_suffix(".yaml").exists():
        return load_preset(named.with_suffix(".yaml"))
    return load_preset(path)


def save_params(
    params_path: str | Path, params: Mapping[str, Any], strip_dataset_from_params: bool = True
) -> Path:
    """Write parameters as YAML; arrays of more than 16 numbers are written into .npy files beside it.

    Parameters
    ----------
    params_path : .yaml or .yml file; arrays are written into the folder NAME_arrays. For the name of a pickle, which
        PyPty 2.2 writes, the .yaml file of that name is written, with a warning.
    strip_dataset_from_params : leave ``dataset`` out

    Returns
    -------
    path of the file, for :func:`load_params`

    Raises
    ------
    ParameterError
        The ending is another one, a key is not a parameter, or a value cannot be written.
    OutputError
        The files cannot be written.
    """
    path = _yaml_path(params_path)
    wrong = [str(key) for key in params if key not in SCHEMA]
    if wrong:
        raise ParameterError(f"{', '.join(wrong)}: not a parameter of PyPty; see  pypty explain")
    kept = {key: value for key, value in params.items() if key != "dataset" or not strip_dataset_from_params}
    if kept.get("data_path") and Path(kept["data_path"]).is_file():
        kept["data_path"] = str(Path(kept["data_path"]).resolve())  # valid from any folder
    make_folder(path.parent)
    _write(path, {key: _plain(path, key, value) for key, value in kept.items()})
    return path


def _yaml_path(path_text: str | Path) -> Path:
    path = Path(path_text).expanduser()
    if path.suffix.lower() in _PICKLES:
        path = path.with_suffix(".yaml")
        _log.warning("%s is used in place of a pickle, which can run code when opened", path)
    if path.suffix.lower() not in (".yaml", ".yml"):
        raise ParameterError(f"{str(path)!r} ends in {path.suffix!r}, expected .yaml")
    return path


def _write(path: Path, plain: Mapping[str, Any]) -> None:
    text = yaml.safe_dump(
        dict(plain), sort_keys=False, allow_unicode=True, width=100, default_flow_style=None
    )
    write_text(path, _HEADER + text)


def _plain(path: Path, key: str, value: Any) -> Any:
    """``value`` in the types of YAML; larger arrays are written into files."""
    if callable(value) and not hasattr(value, "shape") and not isinstance(value, type):
        return lambda_to_string(value)
    array = value if isinstance(value, np.ndarray) else None
    if array is None and isinstance(value, (list, tuple)):
        array = _as_numbers(value)
    if array is not None and (array.size > _INLINE or array.dtype.kind == "c"):
        folder = make_folder(path.with_name(f"{path.stem}_arrays"))
        write_array(folder / f"{key}.npy", array)
        return {"file": f"{folder.name}/{key}.npy"}
    return _simple(key, value)


def _as_numbers(value: Sequence[Any]) -> np.ndarray | None:
    try:
        array = np.asarray(value)
    except ValueError:
        return None
    return array if array.dtype.kind in "biufc" else None


def _simple(key: str, value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return _simple(key, value.tolist())
    if isinstance(value, Mapping):
        return {_simple(key, name): _simple(key, item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_simple(key, item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (np.dtype, type)):
        return np.dtype(value).name
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, ModuleType):  # backend=numpy
        return value.__name__
    raise ParameterError(
        f"{key}: a {type(value).__name__} cannot be written to YAML; give numbers, text or an array"
    )


def change_params(path_params: str | Path, keys: str | Sequence[str], new_values: Any) -> None:
    """Change values in a parameter file, including params.yaml of a running reconstruction.

    A running reconstruction uses new per-epoch values from its next epoch.

    Parameters
    ----------
    path_params : .yaml file, or an output folder
    keys : a name, or several
    new_values : the value, or one per name

    Raises
    ------
    ParameterError
        The file cannot be read, the numbers of keys and values differ, a key is unknown, or a value is wrong.
    """
    path = _existing(path_params)
    names = [keys] if isinstance(keys, str) else list(keys)
    if not isinstance(keys, str) and (isinstance(new_values, str) or not isinstance(new_values, Sequence)):
        raise ParameterError(f"several keys need a list of values, but {new_values!r} was given")
    values = [new_values] if isinstance(keys, str) else list(new_values)
    if len(names) != len(values):
        raise ParameterError(f"{len(names)} keys and {len(values)} values given, expected one value per key")
    content = read_yaml(path)
    for name, value in zip(names, values, strict=True):
        _check_value(name, value)
        content[name] = _plain(path, name, value)
    _rewrite(path, content)


def _check_value(name: str, value: Any) -> None:
    parameter = SCHEMA.get(name)
    if parameter is None:
        raise ParameterError(f"{name!r} is not a parameter of PyPty; see  pypty explain")
    varying = parameter.per_epoch and (callable(value) or isinstance(value, (str, Mapping)))
    if varying and not callable(value):
        make_schedule(parameter, value)  # raises for a wrong expression, before the run reads it
    problem = None if varying else parameter.kind.problem(value)
    if problem:
        raise ParameterError(f"{name}: {problem}, expected {parameter.kind.describe()}")


def _existing(path_text: str | Path) -> Path:
    path = Path(path_text).expanduser()
    if path.is_dir():
        path = path / "params.yaml"
    elif path.suffix.lower() in _PICKLES and path.is_file():
        raise ParameterError(
            f"{str(path)!r} is a pickle, which can run code when opened; read it once with "
            "pypty.params.presets.import_pickle, which takes arrays and plain containers only, and save it as .yaml"
        )
    path = _yaml_path(path)
    if not path.is_file():
        raise ParameterError(f"the file {str(path)!r} does not exist; give a .yaml file, or an output folder")
    return path


def _rewrite(path: Path, content: Mapping[str, Any]) -> None:
    """Write new values, and keep the comments at the top of the file."""
    top = re.match(r"(?:#[^\n]*\n)*", path.read_text(encoding="utf-8"))
    text = yaml.safe_dump(
        dict(content), sort_keys=False, allow_unicode=True, width=100, default_flow_style=None
    )
    write_text(path, (top.group() if top else "") + text)


def delete_dataset_from_params(params_path: str | Path) -> None:
    """Remove ``dataset`` from a parameter file, and delete the .npy file beside it that contains the data.

    Raises
    ------
    ParameterError
        The file cannot be read.
    """
    path = _existing(params_path)
    content = read_yaml(path)
    entry = content.pop("dataset", None)
    _rewrite(path, content)
    if isinstance(entry, Mapping) and set(entry) == {"file"}:
        array = (path.parent / str(entry["file"])).resolve()
        inside = path.parent.resolve() in array.parents  # never delete files elsewhere
        if inside and array.suffix == ".npy":
            array.unlink(missing_ok=True)


def convert_to_nxs(folder_path: str | Path, output_file: str | Path, **options: Any) -> Any:
    """Write the result of a reconstruction as NeXus: :func:`pypty.nexus.convert_to_nxs`."""
    from pypty import nexus

    return nexus.convert_to_nxs(folder_path, output_file, **options)


def load_nexus_params(path_nexus: str | Path) -> dict[str, Any]:
    """Parameters of a NeXus file: :func:`pypty.nexus.load_nexus_params`."""
    from pypty import nexus

    return nexus.load_nexus_params(path_nexus)
