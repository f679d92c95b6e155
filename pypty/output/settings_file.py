"""params.yaml: all settings of a run, with arrays beside it; edited values are picked up while running."""

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
from pypty.params.schedule import make_schedule
from pypty.params.schema import NOT_YET, SCHEMA
from pypty.params.settings import Settings

_log = logging.getLogger(__name__)
NAME = "params.yaml"
ARRAYS = "params"
_INLINE = 16
_HEADER = """# Parameters of this reconstruction, defaults filled in ({version}).
# A value that may vary with the epoch can be edited here while the run goes on: it is used from the next epoch.
# pypty explain KEY  tells what a key means.
"""


def write_settings(folder: Path, settings: Settings, version: str) -> None:
    """Write params.yaml, and every array of more than a few numbers as params/NAME.npy beside it."""
    plain = {}
    for name, value in settings.record().items():
        plain[name] = _plain(folder, name, value, settings)
    text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100, default_flow_style=None)
    write_text(folder / NAME, _HEADER.format(version=f"PyPty {version}") + text)


def _plain(folder: Path, name: str, value: Any, settings: Settings) -> Any:
    """``value`` as YAML can hold it."""
    if name == "dataset":
        if value is None or settings["strip_dataset_from_params"]:
            return None
        return _array_file(folder, name, np.asarray(value))
    if name in ("data_path", "output_folder") and value:
        return str(Path(value).expanduser().resolve())
    if name == "resume":
        return False
    if isinstance(value, np.ndarray) and (value.size > _INLINE or value.dtype.kind == "c"):
        return _array_file(folder, name, value)
    return _yaml_value(value)


def _yaml_value(value: Any) -> Any:
    """``value`` in the types that YAML has; what has no place there becomes its text."""
    if isinstance(value, (np.ndarray, np.generic)):
        return _yaml_value(value.tolist())
    if isinstance(value, Mapping):
        return {_yaml_value(key): _yaml_value(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_yaml_value(item) for item in value]
    if isinstance(value, np.dtype):
        return value.name
    plain = value is None or type(value) in (bool, int, float, str)
    return value if plain else str(value)


def _array_file(folder: Path, name: str, array: np.ndarray) -> dict[str, str]:
    make_folder(folder / ARRAYS)
    write_array(folder / ARRAYS / f"{name}.npy", array)
    return {"file": f"{ARRAYS}/{name}.npy"}


FindProblems = Callable[[Settings, int], list[str]]
"""What is wrong with settings from an epoch on."""


class SettingsWatch:
    """Notices when params.yaml is edited during a run.

    Only per-epoch values are taken over. Anything else, and anything invalid, is reported and left as it was.
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
        together = self._together(settings, changed, epoch)
        if together is not None:
            return together
        for key, value in changed.items():
            settings = self._apply(settings, key, value, epoch)
        return settings

    def _together(self, settings: Settings, changed: Mapping[str, Any], epoch: int) -> Settings | None:
        """The settings with all edits, or None if something is wrong with one: then they are tried one by one."""
        try:
            schedules = {
                key: make_schedule(SCHEMA[key], resolve_files({key: value}, self.path.parent)[key])
                for key, value in changed.items()
                if SCHEMA[key].per_epoch and (SCHEMA[key].status != NOT_YET or SCHEMA[key].is_neutral(value))
            }
        except (ParameterError, KeyError):
            return None
        edited = settings.with_schedules(schedules)
        if len(schedules) < len(changed) or self._find_problems(edited, epoch):
            return None
        for key in changed:
            _log.info("edit of %s: %s is now %s", NAME, key, brief(changed[key]))
        return edited

    def _apply(self, settings: Settings, key: str, value: Any, epoch: int) -> Settings:
        """The settings with one edit, or as they were, with the reason logged."""
        parameter = SCHEMA.get(key)
        if parameter is None or not parameter.per_epoch:
            why = "it cannot change during a run" if parameter else "there is no such parameter"
            _log.warning("edit of %s: %s ignored (%s)", NAME, key, why)
            return settings
        try:
            value = resolve_files({key: value}, self.path.parent)[key]
            edited = settings.with_schedules({key: make_schedule(parameter, value)})
            problems = self._find_problems(edited, epoch)
            if parameter.status == NOT_YET and not parameter.is_neutral(value):
                problems = [f"{key}: this feature is {NOT_YET}"]
        except ParameterError as error:
            problems = [str(error)]
        if problems:
            _log.warning("edit of %s ignored: %s", NAME, "; ".join(problems))
            return settings
        _log.info("edit of %s: %s is now %s", NAME, key, brief(value))
        return edited
