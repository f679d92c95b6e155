"""Progress of a running reconstruction: a progress bar, one line per epoch, and a log file."""

from __future__ import annotations

import logging
import math
import sys
from pathlib import Path
from types import TracebackType

from tqdm.auto import tqdm

from pypty.errors import OutputError, PyptyError
from pypty.output.loss_log import EpochRecord
from pypty.output.terminal import Terminal

TEXT_LOG = "pypty.log"
_LONG_S = 60.0
_log = logging.getLogger(__name__)
_ROOT = logging.getLogger("pypty")
_FORMAT = logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", datefmt="%Y-%m-%d %H:%M:%S")


class _TqdmHandler(logging.Handler):
    """Shows log lines above the bar, in a terminal and in Jupyter."""

    def __init__(self, stream: Terminal) -> None:
        super().__init__()
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        tqdm.write(prefix + record.getMessage(), file=self._stream)


def _how(record: EpochRecord) -> tuple[str, str]:
    """A summary of the epoch besides its loss: short for the bar, longer for a line."""
    if record.optimizer == "lbfgs":
        short = f"step {record.step:.2g}, {record.evaluations} eval."
        long = f"step {record.step:.3g}  evaluations {record.evaluations}"
    else:
        short = f"{record.optimizer}, {record.batches} batches"
        long = f"{record.optimizer}  batches {record.batches}"
    if record.validation is not None:
        short += f", held out {record.validation:.6g}"
        long += f"  held out {record.validation:.6g} per pattern"
    if record.free_deviance is not None:
        short += f", free {record.free_deviance:.4g}"
        long += f"  free pixels {record.free_deviance:.6g}"
    return short, long


class Reporter:
    """Context manager that shows progress at the level of ``print_flag``.

    0 nothing; 1 a bar with deviance (1 = noise only), loss, step and evaluations (or method and batches), loss of
    held-out patterns, deviance of free pixels and time left, and warnings; 2 a line per epoch instead; 3 also every
    line-search step; 4 also every regulariser. With a folder, everything also goes to pypty.log.
    """

    def __init__(self, print_flag: int, first_epoch: int, last_epoch: int, log_file: Path | None) -> None:
        self.level = print_flag
        self.log_file = log_file
        # looked up here: a notebook, or a test, may have replaced the streams
        self._lines, self._bar_stream = Terminal(sys.stdout), Terminal(sys.stderr)
        self.bar = tqdm(
            file=self._bar_stream,
            total=last_epoch,
            initial=first_epoch,
            unit="epoch",
            disable=print_flag != 1,
            dynamic_ncols=True,
            leave=True,
        )
        self._handlers: list[logging.Handler] = []
        self._level_before = _ROOT.level

    def __enter__(self) -> Reporter:
        if self.level > 0:
            shown = _TqdmHandler(self._lines)
            shown.setLevel(
                logging.WARNING if self.level == 1 else logging.INFO if self.level == 2 else logging.DEBUG
            )
            self._handlers.append(shown)
        if self.log_file is not None:
            try:
                kept = logging.FileHandler(self.log_file, encoding="utf-8")
            except OSError as error:
                raise OutputError(f"{str(self.log_file)!r} cannot be written: {error.strerror}") from error
            kept.setFormatter(_FORMAT)
            kept.setLevel(logging.DEBUG if self.level >= 3 else logging.INFO)
            self._handlers.append(kept)
        for handler in self._handlers:
            _ROOT.addHandler(handler)
        if self._handlers:
            # the logger passes what the most detailed handler wants; each handler then has its own level
            _ROOT.setLevel(min(handler.level for handler in self._handlers))
        return self

    def epoch(self, record: EpochRecord, loss_after: float) -> None:
        """Show a finished epoch."""
        short, long = _how(record)
        known = record.deviance is not None and math.isfinite(record.deviance)
        deviance = f"deviance {record.deviance:.4g}, " if known else ""
        self.bar.set_postfix_str(f"{deviance}loss {loss_after:.6g}, {short}", refresh=False)
        self.bar.update()
        _ROOT.info(
            "epoch %d  deviance %s  loss %.8g  sse %.6g  %s  %.1f s  refined: %s",
            record.epoch,
            f"{record.deviance:.4g}" if known else "unknown",
            record.loss,
            record.sse,
            long,
            record.time_s,
            ", ".join(record.blocks),
        )
        if self.level >= 4:
            for name, value in record.terms.items():
                _ROOT.info("    %s: %.4g (%.2f %% of the loss)", name, value, 100 * value / record.loss)

    def say(self, text: str) -> None:
        """Show a line below the bar, and put it into the log; silent with ``print_flag`` 0, like the rest."""
        self.bar.close()
        if self.level == 1:
            # its level of the log shows warnings only
            tqdm.write(text, file=self._lines)
        _ROOT.info("%s", text)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()
        if isinstance(error, PyptyError):
            _log.error("ended by %s: %s", type(error).__name__, error)
        for handler in self._handlers:
            _ROOT.removeHandler(handler)
            handler.close()
        _ROOT.setLevel(self._level_before)


def warn_of_a_long_run(epoch_s: float, epochs_left: int) -> None:
    """Say early that nothing will be saved, where that would cost more than a minute."""
    left_s = epoch_s * epochs_left
    if left_s > _LONG_S:
        _log.warning(
            "output_folder is not given: nothing is saved while the run goes on, for about %.0f more minutes; to keep "
            "finished epochs, stop it and give output_folder",
            max(1.0, left_s / 60),
        )
