"""Detect the program that wrote a file from its content, and read it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py

from pypty.errors import DataError, PyptyError
from pypty.importers.hdf5 import opened
from pypty.importers.imported import Imported
from pypty.importers.model_file import load_model
from pypty.importers.ptychoshelves import VARIABLES, load_ptychoshelves
from pypty.importers.ptyrad.model_file import is_ptyrad, load_ptyrad
from pypty.importers.ptyrad.settings import params_from_ptyrad
from pypty.importers.py4dstem import find_reconstruction, load_py4dstem
from pypty.importers.pypty_folder import folder_params, known_params, load_folder
from pypty.params.files import not_a_file
from pypty.params.kinds import FilePath
from pypty.params.presets import import_pickle, load_preset, read_yaml, resolve_files
from pypty.results.model_file import is_model

EXPECTED = (
    "an output folder of PyPty, a model file of PyPty (model_iter*.h5) or PtyRAD (model_iter*.hdf5), a ptychographic "
    "reconstruction of py4DSTEM (.h5), or a result of PtychoShelves or fold_slice (.mat)"
)


def load_result(path: str | Path, trust_pickle: bool = False) -> Imported:
    """Read the result of another program.

    Parameters
    ----------
    path : an output folder of PyPty (this one, or 2.2) or a model file of it (``save_iters``), a model file of PtyRAD,
        an HDF5 file with a ptychographic reconstruction of py4DSTEM, or a .mat file of PtychoShelves or fold_slice; the
        content decides, not the name
    trust_pickle : read params.pkl of a folder of PyPty 2.2, too (restricted to arrays and plain containers)

    Returns
    -------
    Imported, in the conventions of docs/conventions.md; its ``params()`` start a reconstruction

    Raises
    ------
    DataError
        The file is missing, damaged, or none of these.
    CheckpointError
        A folder contains no result, or a damaged one.
    """
    path = _existing(path)
    try:
        return _load(path, trust_pickle)
    except PyptyError:
        raise
    except Exception as error:  # a damaged file may hold a value of any type and shape in place of any other
        raise DataError(
            f"{str(path)!r} cannot be read as {EXPECTED}: {type(error).__name__}: {error}. It is damaged, or of a "
            "version that is not known here"
        ) from error


def _load(path: Path, trust_pickle: bool) -> Imported:
    if path.is_dir():
        return load_folder(path, trust_pickle)
    if h5py.is_hdf5(path):
        with opened(path, EXPECTED) as file:
            kind = _kind(file)
        if kind == "PyPty":
            return load_model(path)
        if kind == "PtyRAD":
            return load_ptyrad(path)
        if kind == "py4DSTEM":
            return load_py4dstem(path)
        if kind == "PtychoShelves":
            return load_ptychoshelves(path)
    elif _starts_like_matlab(path):
        return load_ptychoshelves(path)
    raise DataError(f"{str(path)!r} is not a known result; expected {EXPECTED}")


def params_from(path: str | Path, trust_pickle: bool = False) -> dict[str, Any]:
    """Parameters that start from the parameters or the result of another program.

    Parameters
    ----------
    path : anything that :func:`load_result` reads (its arrays are among the parameters then); a parameter file of
        PtyRAD (.yml, .yaml, .json), of PyPty (.yaml), or, with ``trust_pickle``, of PyPty 2.2 (.pkl)

    Returns
    -------
    dict; add ``data_path`` or ``dataset`` where the file names none

    Raises
    ------
    DataError, CheckpointError
        As :func:`load_result`.
    ParameterError
        A parameter file cannot be read, or lacks required values.
    """
    path = _existing(path)
    suffix = path.suffix.lower()
    if path.is_dir() and not (path / "co.npy").is_file() and (path / "params.yaml").is_file():
        return folder_params(path, trust_pickle)
    if path.is_file() and suffix in (".pkl", ".pickle"):
        if not trust_pickle:
            raise DataError(f"{str(path)!r} is a pickle; if you trust it, give trust_pickle=True")
        return known_params(import_pickle(path))
    if path.is_file() and suffix in (".yml", ".yaml", ".json"):  # JSON is YAML
        content = read_yaml(path)
        return (
            params_from_ptyrad(content, str(path))
            if "init_params" in content
            else resolve_files(content, path.parent)
        )
    return load_result(path, trust_pickle).params()


def parameters_of(source: str | Path) -> dict[str, Any]:
    """Parameters of a preset, a parameter file or an output folder; of a result file (HDF5), to go on from it."""
    if FilePath().problem(source) is None:
        path = Path(source).expanduser()
        if path.is_file() and h5py.is_hdf5(path):
            return load_result(path).params()
    return load_preset(source)


def _existing(path: str | Path) -> Path:
    path = Path(path).expanduser()
    problem = None if path.is_dir() else not_a_file(path)
    if problem:
        raise DataError(f"{problem}; expected {EXPECTED}")
    return path


def _kind(file: h5py.File) -> str:
    if is_model(file):
        return "PyPty"
    if is_ptyrad(file):
        return "PtyRAD"
    if any(name in file for name in VARIABLES):
        return "PtychoShelves"
    return "py4DSTEM" if find_reconstruction(file) is not None else ""


def _starts_like_matlab(path: Path) -> bool:
    try:
        with open(path, "rb") as stream:
            return stream.read(6) == b"MATLAB"
    except OSError as error:
        raise DataError(f"{str(path)!r} cannot be read: {error.strerror}") from error
