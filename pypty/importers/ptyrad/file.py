"""Parameter files of PtyRAD: detect and read them, convert old forms, and fill in defaults."""

from __future__ import annotations

import difflib
import importlib
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pypty.errors import ParameterError
from pypty.importers.ptyrad.defaults import GROUPS, REQUIRED, Row, Rows
from pypty.params.files import not_a_file
from pypty.params.kinds import complaint
from pypty.params.presets import read_yaml

_OLD_ABERRATIONS = (
    ("probe_defocus", "defocus", ("defocus", "C10", "C1")),
    ("probe_c3", "C30", ("C30", "Cs", "C3")),
    ("probe_c5", "C50", ("C50", "C5")),
)
_CONFIGURED = ("sampler_params", "pruner_params")
_MOST_UNKNOWN = 20
_SHIPPED = ("params_path",)
"""Keys beside the groups, in parameters that PtyRAD has written."""


@dataclass(frozen=True)
class Complete:
    """The content of a file, completed with PtyRAD's defaults.

    Attributes
    ----------
    groups : the six groups, with all their keys
    set_by_user : dotted names of the keys in the file
    notes : old forms that were converted
    """

    groups: Mapping[str, Mapping[str, Any]]
    set_by_user: frozenset[str]
    notes: tuple[str, ...]


def is_ptyrad_content(content: Any) -> bool:
    """Whether a mapping is a parameter file of PtyRAD: it has at least one of its groups."""
    return isinstance(content, Mapping) and any(isinstance(content.get(name), Mapping) for name in GROUPS)


def read_file(path: str | Path) -> dict[str, Any]:
    """The content of a .yml, .yaml, .json or .toml file, of PtyRAD or not.

    Raises
    ------
    ParameterError
        The file cannot be read, or is a Python module.
    """
    path = Path(path).expanduser()
    suffix = path.suffix.lower()
    if suffix == ".py":
        raise ParameterError(
            f"{str(path)!r} is a Python module, which is not read because reading would execute it. Write its groups "
            "as .yml, .toml or .json, or import it yourself and pass the groups: "
            "pypty.importers.translate({'init_params': module.init_params, ...}).params"
        )
    problem = not_a_file(path)
    if problem:
        raise ParameterError(f"the parameter file cannot be read: {problem}")
    if suffix == ".toml":
        return _read_toml(path)
    if suffix == ".json":
        return _read_json(path)
    return read_yaml(path)


def _read_toml(path: Path) -> dict[str, Any]:
    # tomllib is in the standard library from Python 3.11 on.
    tomllib = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        return dict(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:  # TOMLDecodeError is a ValueError
        raise ParameterError(f"{str(path)!r} cannot be read as TOML: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ParameterError(f"{str(path)!r} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ParameterError(
            f"{str(path)!r} contains a {type(content).__name__}, expected a mapping of groups"
        )
    return content


def complete(content: Mapping[str, Any], source: str) -> Complete:
    """Convert old forms, check the keys, and fill in PtyRAD's defaults.

    Raises
    ------
    ParameterError
        Keys are unknown or values wrong (the message lists all), or required keys are missing.
    """
    notes: list[str] = []
    problems: list[str] = []
    set_by_user: set[str] = set()
    current = {name: _modern(name, dict(_mapping(content.get(name), name, source)), notes) for name in GROUPS}
    known = (*GROUPS, *_SHIPPED)
    unknown = [name for name in content if name not in known]
    problems += [f"PtyRAD has no key {name!r}{_near(str(name), known)}" for name in unknown[:_MOST_UNKNOWN]]
    problems += [f"and {len(unknown) - _MOST_UNKNOWN} more unknown keys"] * (len(unknown) > _MOST_UNKNOWN)
    groups = {name: _filled(current[name], GROUPS[name], name, set_by_user, problems) for name in GROUPS}
    if problems:
        raise ParameterError(f"{source}: {'; '.join(problems)}")
    needed = [key for key in REQUIRED if groups["init_params"][key] is None]
    if needed and groups["init_params"]["probe_illum_type"] == "electron":
        raise ParameterError(f"{source}: init_params needs {', '.join(needed)} (required by PtyRAD, too)")
    return Complete(groups, frozenset(set_by_user), tuple(notes))


def _mapping(value: Any, name: str, source: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ParameterError(f"{source}: {name} is a {type(value).__name__}, expected 'key: value' lines")
    return value


def _filled(
    entries: Any, rows: Rows, path: str, set_by_user: set[str], problems: list[str]
) -> dict[str, Any]:
    """The entries of a mapping, completed with defaults.

    Wrong entries are added to ``problems``, and the dotted names of all known ones to ``set_by_user``.
    """
    entries = _mapping(entries, path, "the file")
    for key in entries:
        if key not in rows:
            problems.append(f"PtyRAD has no key '{path}.{key}'{_near(str(key), rows)}")
    out: dict[str, Any] = {}
    for key, row in rows.items():
        where = f"{path}.{key}"
        if key not in entries:
            out[key] = _plain(row.default)
            continue
        set_by_user.add(where)
        value = _as_in_a_file(entries[key], key)
        problem = row.kind.problem(value)
        if problem:
            problems.append(f"{where} is {_in_a_file(complaint(row.kind, problem))}")
            out[key] = _plain(row.default)
        elif row.rows and isinstance(value, Mapping):
            out[key] = _filled(value, row.rows, where, set_by_user, problems)
        else:
            out[key] = _with_configs(value, row) if key in _CONFIGURED else value
    return out


def _with_configs(value: Any, row: Row) -> Any:
    """Add the default's options if the sampler or pruner is the default one; they do not suit others."""
    if value is None:
        return value
    same = str(value.get("name")) == row.default["name"]
    given = value.get("configs")  # null or absent: the defaults
    return {**value, "configs": (_plain(row.default["configs"]) if same else {}) if given is None else given}


def _in_a_file(complaint: str) -> str:
    """The text of a problem as it reads after "is", with null for None."""
    text = complaint.removeprefix("given ")
    return f"null{text.removeprefix('None')}" if text.startswith("None,") else text


def _as_in_a_file(value: Any, key: str) -> Any:
    """Arrays as lists, except arrays passed as sources (keys that end in _params)."""
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and not key.endswith("_params")):
        return value.tolist()
    return value


def _plain(value: Any) -> Any:
    """A default as a file would hold it: dicts and lists."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _modern(group: str, entries: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    """Convert one group to the current form; conversions are added to ``notes``."""
    if group == "init_params":
        _modern_init(entries, notes)
    if group == "constraint_params":
        for name, entry in entries.items():
            if entry is None:
                entries[name] = {"start_iter": None}
            elif isinstance(entry, Mapping) and "freq" in entry:
                rest = {key: value for key, value in entry.items() if key != "freq"}
                freq = entry["freq"]
                entries[name] = {**rest, "start_iter": None if freq is None else 1, "step": freq or 1}
                notes.append(
                    f"constraint_params.{name}.freq = {freq} is the old form of start_iter 1, step {freq}"
                    if freq
                    else f"constraint_params.{name}.freq = null is the old form of start_iter null"
                )
    if group == "recon_params":
        configs = entries.get("compiler_configs")
        if isinstance(configs, Mapping) and "disable" in configs:  # the form that PtyRAD itself writes
            rest = {key: value for key, value in configs.items() if key != "disable"}
            entries["compiler_configs"] = {"enable": not configs["disable"], **rest}
    return entries


def _modern_init(entries: dict[str, Any], notes: list[str]) -> None:
    aberrations = dict(entries.get("probe_aberrations") or {})
    for old, new, same in _OLD_ABERRATIONS:
        value = entries.pop(old, None)
        if value is None:
            continue
        if not any(name in aberrations for name in same):
            aberrations[new] = value
            notes.append(f"init_params.{old} is the old form of probe_aberrations.{new}")
    if aberrations:
        entries["probe_aberrations"] = aberrations
    normalization = entries.get("probe_normalization")
    if isinstance(normalization, Mapping) and normalization.get("mode") == "total_intensity":
        entries["probe_normalization"] = {**normalization, "mode": "mean_total_ints"}
