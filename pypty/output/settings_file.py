"""params.yaml: all settings of a run, with arrays beside it; edited values are picked up while running."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pypty.errors import PyptyError
from pypty.output.files import make_folder, write_array, write_text
from pypty.params.kinds import brief
from pypty.params.presets import load_preset
from pypty.params.schedule import Schedule, make_schedule
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
    if isinstance(value, np.ndarray):
        if value.size <= _INLINE and value.dtype.kind != "c":
            return value.tolist()
        return _array_file(folder, name, value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (tuple, list)):
        return [_plain(folder, name, item, settings) for item in value]
    if isinstance(value, (type, np.dtype)):
        return np.dtype(value).name
    return value


def _array_file(folder: Path, name: str, array: np.ndarray) -> dict[str, str]:
    make_folder(folder / ARRAYS)
    write_array(folder / ARRAYS / f"{name}.npy", array)
    return {"file": f"{ARRAYS}/{name}.npy"}


class SettingsWatch:
    """Notices when params.yaml is edited during a run.

    Only per-epoch values are taken over. Anything else, and anything invalid, is reported and left as it was.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._stamp = self._read_stamp()
        self._seen = self._read()

    def _read_stamp(self) -> tuple[int, int]:
        try:
            status = self.path.stat()
        except OSError:
            return (0, 0)
        return (status.st_mtime_ns, status.st_size)

    def _read(self) -> dict[str, Any]:
        try:
            content = yaml.safe_load(self.path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            return {}
        return content if isinstance(content, dict) else {}

    def __call__(self, settings: Settings) -> Settings:
        """The settings with valid edits applied."""
        stamp = self._read_stamp()
        if stamp == self._stamp:
            return settings
        self._stamp = stamp
        before, self._seen = self._seen, self._read()
        if not self._seen:
            self._seen = before
            _log.warning("%s was edited, but cannot be read as YAML; the edit is ignored", self.path)
            return settings
        changed = {
            key: value for key, value in self._seen.items() if key not in before or before[key] != value
        }
        return settings.with_schedules(self._valid(changed))

    def _valid(self, changed: Mapping[str, Any]) -> dict[str, Schedule]:
        out: dict[str, Schedule] = {}
        for key, value in changed.items():
            parameter = SCHEMA.get(key)
            if parameter is None or not parameter.per_epoch:
                why = "it cannot change during a run" if parameter else "there is no such parameter"
                _log.warning("edit of %s: %s ignored (%s)", self.path.name, key, why)
                continue
            try:
                if parameter.status == NOT_YET and not parameter.is_neutral(value):
                    raise PyptyError(f"{key}: this feature is {NOT_YET}")
                schedule = make_schedule(parameter, value)
                schedule.at(0)
            except PyptyError as error:
                _log.warning("edit of %s ignored: %s", self.path.name, error)
                continue
            out[key] = schedule
            _log.info("edit of %s: %s is now %s", self.path.name, key, brief(value))
        return out


def load_settings_file(folder: Path) -> dict[str, Any]:
    """The parameters recorded in a folder."""
    return load_preset(folder)
