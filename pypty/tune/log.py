"""Progress of the trials: one line per trial, on the screen and in tune.log."""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path
from types import TracebackType

from pypty.errors import OutputError

_TUNE = logging.getLogger("pypty.tune")
_FORMAT = logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", datefmt="%Y-%m-%d %H:%M:%S")


class TuneLog:
    """Context manager that logs the trials, while their reconstructions are silent.

    Parameters
    ----------
    level : ``print_flag``; 0 shows nothing
    folder : folder of tune.log, or of tune_WORKER.log for a named worker
    """

    def __init__(self, level: int, folder: Path | None, worker: str) -> None:
        self._handlers: list[logging.Handler] = []
        self._before = _TUNE.level
        if level > 0:
            shown = logging.StreamHandler(sys.stdout)
            shown.setFormatter(logging.Formatter("%(message)s"))
            self._handlers.append(shown)
        if folder is not None:
            name = f"tune_{re.sub(r'[^A-Za-z0-9_.-]', '-', worker)}.log" if worker else "tune.log"
            try:
                kept = logging.FileHandler(folder / name, encoding="utf-8")
            except OSError as error:
                raise OutputError(f"{str(folder / name)!r} cannot be written: {error.strerror}") from error
            kept.setFormatter(_FORMAT)
            self._handlers.append(kept)

    def __enter__(self) -> TuneLog:
        for handler in self._handlers:
            _TUNE.addHandler(handler)
        if self._handlers:
            _TUNE.setLevel(logging.INFO)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handler in self._handlers:
            _TUNE.removeHandler(handler)
            handler.close()
        _TUNE.setLevel(self._before)
