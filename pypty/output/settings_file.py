"""params.yaml: all settings of a run, with arrays beside it; edits are applied during the run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pypty.errors import ParameterError
from pypty.output.files import make_folder, write_array, write_text
from pypty.params.kinds import brief
from pypty.params.presets import read_yaml, resolve_files
from pypty.params.schedule import Schedule, make_schedule
from pypty.params.schema import SCHEMA
from pypty.params.settings import Settings

_log = logging.getLogger(__name__)
NAME = "params.yaml"
ARRAYS = "params"
_INLINE = 16
_HEADER = """# Parameters of this reconstruction, defaults filled in ({version}).
# Values that may vary with the epoch can be edited here during the run; edits apply from the next epoch.
# pypty explain KEY  describes a key.
"""


def write_settings(folder: Path, settings: Settings, version: str) -> None:
    """Write params.yaml, and every array of more than a few numbers as params/NAME.npy beside it."""
    plain = {}
    for name, value in settings.record().items():
        plain[name] = _plain(folder, name, value, settings)
    text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100, default_flow_style=None)
    write_text(folder / NAME, _HEADER.format(version=f"PyPty {version}") + text)


def _plain(folder: Path, name: str, value: Any, settings: Settings) -> Any:
    """``value`` as plain YAML, or the name of the file that contains it."""
    if name == "dataset":
        if value is None or settings["strip_dataset_from_params"]:
            return None
        return _array_file(folder, name, np.asarray(value))
    if SCHEMA[name].is_path(value):
        return str(Path(value).expanduser().resolve())
    if name in (
        "resume",
        "overwrite",
    ):  # of one command; the folder is not to be replaced whenever it is read
        return False
    if isinstance(value, np.ndarray) and (value.size > _INLINE or value.dtype.kind == "c"):
        return _array_file(folder, name, value)
    return yaml_value(value)


def yaml_value(value: Any) -> Any:
    """``value`` in the types of YAML; values of other types become text."""
    if isinstance(value, (np.ndarray, np.generic)):
        return yaml_value(value.tolist())
    if isinstance(value, Mapping):
        return {yaml_value(key): yaml_value(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [yaml_value(item) for item in value]
    if isinstance(value, np.dtype):
        return value.name
    plain = value is None or type(value) in (bool, int, float, str)
    return value if plain else str(value)


def _array_file(folder: Path, name: str, array: np.ndarray) -> dict[str, str]:
    make_folder(folder / ARRAYS)
    write_array(folder / ARRAYS / f"{name}.npy", array)
    return {"file": f"{ARRAYS}/{name}.npy"}


FindProblems = Callable[[Settings, int], list[str]]
"""Returns the problems of settings from an epoch on."""


class SettingsWatch:
    """Detects edits of params.yaml during a run.

    Only edits of per-epoch values are applied. Other and invalid edits are reported and ignored.
    """

    def __init__(self, folder: Path, find_problems: FindProblems) -> None:
        self.path = folder / NAME
        self._find_problems = find_problems
        self._stamp = self._read_stamp()
        self._seen = read_yaml(self.path)

    def _read_stamp(self) -> tuple[int, int]:
        try:
            status = self.path.stat()
        except OSError:
            return (0, 0)
        return (status.st_mtime_ns, status.st_size)

    def __call__(self, settings: Settings, epoch: int) -> Settings:
        """The settings with valid edits applied; ``epoch`` is the next one."""
        stamp = self._read_stamp()
        if stamp == self._stamp:
            return settings
        self._stamp = stamp
        try:
            content = read_yaml(self.path)
            if not content:
                raise ParameterError("it is empty")
        except ParameterError as error:
            _log.warning("edit of %s ignored, it cannot be read as YAML: %s", NAME, error)
            return settings
        before, self._seen = self._seen, content
        changed = {key: value for key, value in content.items() if key not in before or before[key] != value}
        edits: dict[str, Schedule] = {}
        for key, value in changed.items():
            try:
                edits[key] = self._read_edit(key, value)
            except ParameterError as error:
                _log.warning("edit of %s: %s ignored (%s)", NAME, key, error)
        if not self._find_problems(settings.with_schedules(edits), epoch):
            return self._accept(settings, edits)
        # An edit is wrong, or edits contradict each other: apply them one by one, to keep the valid ones.
        for key, schedule in edits.items():
            problems = self._find_problems(settings.with_schedules({key: schedule}), epoch)
            if problems:
                _log.warning("edit of %s: %s ignored (%s)", NAME, key, "; ".join(problems))
            else:
                settings = self._accept(settings, {key: schedule})
        return settings

    def _read_edit(self, key: str, value: Any) -> Schedule:
        """The schedule of an edited value; raises ParameterError if the value cannot be used."""
        parameter = SCHEMA.get(key)
        if parameter is None or not parameter.per_epoch:
            raise ParameterError("it cannot change during a run" if parameter else "it is not a parameter")
        return make_schedule(parameter, resolve_files({key: value}, self.path.parent)[key])

    def _accept(self, settings: Settings, edits: Mapping[str, Schedule]) -> Settings:
        for key in edits:
            _log.info("edit of %s: %s is now %s", NAME, key, brief(self._seen[key]))
        return settings.with_schedules(edits)
