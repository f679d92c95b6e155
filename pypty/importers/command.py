"""``pypty convert``, and the function with which the command line loads parameter files of PtyRAD and of PyPty."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pypty.errors import ParameterError
from pypty.importers.load import parameters_of
from pypty.importers.ptyrad.defaults import GROUPS
from pypty.importers.ptyrad.file import is_ptyrad_content, read_file
from pypty.importers.ptyrad.params import translate
from pypty.importers.ptyrad.translation import Translation
from pypty.output.files import make_folder, write_array, write_text
from pypty.output.settings_file import yaml_value
from pypty.params.kinds import FilePath

_SUFFIXES = (".yml", ".yaml", ".toml", ".json", ".py")
_INLINE = 16
"""Numbers that are written in the preset itself."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``pypty convert``."""
    parser.add_argument("file", help="parameter file of PtyRAD: .yml, .yaml, .toml or .json")
    parser.add_argument(
        "-o", "--output", required=True, metavar="PRESET.yaml", help="file for the parameters of pypty"
    )
    parser.add_argument("--report", action="store_true", help="also report the translation of every key")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="replace a key there (recon_params.NITER=50) or a parameter here (epoch_max=50)",
    )


def convert_command(options: argparse.Namespace, changes: Mapping[str, Any]) -> str:
    """Write the preset; gives the text to show.

    Raises
    ------
    ParameterError, DataError
        The file is not a parameter file of PtyRAD, or cannot be translated.
    """
    content = read_file(options.file)
    if not is_ptyrad_content(content):
        raise ParameterError(f"{options.file!r} is not a parameter file of PtyRAD: it has no init_params")
    translation = _translated(options.file, content, changes)
    write_preset(translation, options.output, str(options.file))
    return f"{translation.report(options.report)}\nWritten: {options.output}"


def load_parameters(source: str, changes: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Parameters of a preset, an output folder, a result file or a parameter file of PtyRAD, and a report.

    Parameters
    ----------
    changes : parameters that replace those of the file; dotted names are keys of a PtyRAD file

    Raises
    ------
    ParameterError, DataError
        The file is missing, or cannot be read or translated.
    """
    path = Path(source).expanduser() if FilePath().problem(source) is None else None
    if path is not None and path.is_file() and path.suffix.lower() in _SUFFIXES:
        content = read_file(path)
        if is_ptyrad_content(content):
            translation = _translated(source, content, changes)
            return translation.params, f"{source}: parameters of PtyRAD.\n{translation.report()}"
        if path.suffix.lower() == ".toml":
            raise ParameterError(f"{source!r} is not a parameter file of PtyRAD; those of pypty are YAML")
    return {**parameters_of(source), **changes}, ""


def _translated(source: str, content: Mapping[str, Any], changes: Mapping[str, Any]) -> Translation:
    # Dotted names that begin with a group are PtyRAD's; all others are parameters here.
    theirs = {key: value for key, value in changes.items() if key.partition(".")[0] in GROUPS and "." in key}
    translation = translate(
        _changed(content, theirs), source, Path(source).expanduser().resolve().parent, source
    )
    translation.params.update({key: value for key, value in changes.items() if key not in theirs})
    return translation


def _changed(content: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with entries by dotted name replaced."""
    out = dict(content)
    for name, value in changes.items():
        head, _, rest = name.partition(".")
        if not rest:
            out[head] = value
        else:
            inner = out.get(head)
            out[head] = _changed(inner if isinstance(inner, Mapping) else {}, {rest: value})
    return out


def write_preset(translation: Translation, path: str | Path, source: str) -> None:
    """A preset that :func:`pypty.load_preset` reads; arrays lie beside it in NAME_arrays.

    Raises
    ------
    OutputError
        It cannot be written.
    """
    path = Path(path).expanduser()
    folder = f"{path.stem}_arrays"
    plain: dict[str, Any] = {}
    for name, value in translation.params.items():
        if isinstance(value, np.ndarray) and (value.size > _INLINE or value.dtype.kind == "c"):
            make_folder(path.parent / folder)
            write_array(path.parent / folder / f"{name}.npy", value)
            plain[name] = {"file": f"{folder}/{name}.npy"}
        else:
            plain[name] = yaml_value(value)
    make_folder(path.parent)
    said = "".join(f"# {line}\n" for line in translation.report().splitlines())
    text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100, default_flow_style=None)
    write_text(path, f"# From {source} of PtyRAD, by pypty convert.\n{said}{text}")
