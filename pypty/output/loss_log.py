"""loss.csv: one row per epoch, with the columns of PyPty 2.2. Row k contains the loss before the update of epoch k."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pypty.output.files import append_text, write_text

LOSS_LOG = "loss.csv"


@dataclass(kw_only=True)
class EpochRecord:
    """One epoch, as in a row of loss.csv.

    Attributes
    ----------
    loss, sse : before the update of this epoch
    first_step, step : first trial step, and accepted step (0 if rejected)
    evaluations : number of evaluations of loss and gradient in this epoch
    slope, new_slope : directional derivative at the start and at the accepted point
    terms : value of each regulariser
    decisions : automatic decisions of the engine (blocks frozen or refined again)
    warm_up : "" for L-BFGS; "falling" or "settled" for a pass of mini-batches, from its errors
    optimizer : the method ("lbfgs", "preconditioned", "adam", ...)
    learning_rates : of a first-order method at the start of the epoch, with names and units of ``learning_rates``
    loss_terms : value of each term of ``loss_terms``
    gradient_norms, update_norms : root of the mean square of gradient and change, by block (of the optimiser's vector)
    validation : loss of the held-out patterns per pattern, after the update; None = no such patterns
    deviance : of one of every 64 patterns, in units of its expectation, after the update; 1 = noise only; None = not
        known
    free_deviance : mean deviance of a free pixel, before the update (as ``loss``); None = there are no free pixels
    convergence : metrics of the convergence monitor, at its epochs
    mean_slice_distance_A, mean_tilt_mrad : after the update; the tilt [y, x] inside the specimen
    batches : number of batches
    """

    epoch: int
    time_s: float
    loss: float
    sse: float
    first_step: float
    step: float
    evaluations: int
    slope: float
    new_slope: float
    blocks: tuple[str, ...] = ()
    terms: dict[str, float] = field(default_factory=dict)
    free_GiB: float = 0.0
    total_GiB: float = 0.0
    warnings: list[str] = field(default_factory=list)
    decisions: list[str] = field(default_factory=list)
    warm_up: str = ""
    optimizer: str = "lbfgs"
    learning_rates: dict[str, float] = field(default_factory=dict)
    loss_terms: dict[str, float] = field(default_factory=dict)
    gradient_norms: dict[str, float] = field(default_factory=dict)
    update_norms: dict[str, float] = field(default_factory=dict)
    validation: float | None = None
    deviance: float | None = None
    free_deviance: float | None = None
    convergence: dict[str, float] = field(default_factory=dict)
    mean_slice_distance_A: float = 0.0
    mean_tilt_mrad: tuple[float, float] = (0.0, 0.0)
    batches: int = 1


_BEFORE = (
    "epoch",
    "time / s",
    "loss",
    "sse",
    "initial step",
    "matching step",
    "N linesearch iterations",
    "dir. derivative",
    "new dir. derivative",
)
_AFTER = ("Free GiB", "Total GiB", "Warnings", "optimizer", "validation loss", "deviance", "free deviance")
"""From "optimizer" on they are not in PyPty 2.2; what is not known is left empty."""


class LossLog:
    """Writes loss.csv: a line is appended after each epoch, so that the cost of an epoch does not grow.

    The whole file is written again only where its columns change, or where it is not as it was left.

    Parameters
    ----------
    level : 1 has one column for all regularisers, 2 one for each
    """

    def __init__(self, path: Path, level: int) -> None:
        self.path = path
        self.level = level
        self._columns: list[str] = []
        self._rows = 0
        self._size = -1

    def write(self, rows: Sequence[EpochRecord]) -> None:
        """Bring the log up to ``rows``, which only grow.

        Raises
        ------
        OutputError
            The file cannot be written.
        """
        new = rows[self._rows :]
        terms = {name for row in new for name in row.terms} if self.level == 2 else set()
        known = set(self._columns) if self._rows else set()
        if self._rows and terms <= known and self._size == _size(self.path):
            if new:
                append_text(self.path, _lines(new, self._columns))
        else:
            self._columns = sorted(terms | known)
            header = [*_BEFORE, *(self._columns or ["Constraints contribution"]), *_AFTER]
            write_text(self.path, _csv([header]) + _lines(rows, self._columns))
        self._rows, self._size = len(rows), _size(self.path)


def write_loss_log(path: Path, rows: Sequence[EpochRecord], level: int) -> None:
    """Write the whole log; level 1 has one column for all regularisers, level 2 one for each."""
    LossLog(path, level).write(rows)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _lines(rows: Sequence[EpochRecord], terms: Sequence[str]) -> str:
    return _csv([_cells(row, terms) for row in rows])


def _csv(cells: Sequence[Sequence[object]]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(cells)
    return stream.getvalue()


def _cells(row: EpochRecord, terms: Sequence[str]) -> list[object]:
    return [
        row.epoch,
        f"{row.time_s:.3f}",
        repr(row.loss),
        repr(row.sse),
        row.first_step,
        row.step,
        row.evaluations,
        row.slope,
        row.new_slope,
        *([row.terms.get(name, 0.0) for name in terms] or [sum(row.terms.values())]),
        f"{row.free_GiB:.3f}",
        f"{row.total_GiB:.3f}",
        "; ".join([*row.decisions, *row.warnings]),
        row.optimizer,
        *(
            "" if value is None else repr(value)
            for value in (row.validation, row.deviance, row.free_deviance)
        ),
    ]


def read_loss_log(path: Path) -> list[dict[str, str]]:
    """The rows of a log, by column name; a last line that a kill or a full disk has cut off is left out."""
    text = path.read_text(encoding="utf-8")
    return list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline="")))


def read_records(path: Path) -> list[EpochRecord]:
    """The rows of a log as records; raises KeyError or ValueError if the file is not a log."""
    return [_record(row) for row in read_loss_log(path)]


def _record(row: dict[str, str]) -> EpochRecord:
    """A row of loss.csv as a record."""
    return EpochRecord(
        epoch=int(row["epoch"]),
        time_s=float(row["time / s"]),
        loss=float(row["loss"]),
        sse=float(row["sse"]),
        first_step=float(row["initial step"]),
        step=float(row["matching step"]),
        evaluations=int(float(row["N linesearch iterations"])),
        slope=float(row["dir. derivative"]),
        new_slope=float(row["new dir. derivative"]),
        terms={
            name: float(value) for name, value in row.items() if name not in (*_BEFORE, *_AFTER) and value
        },
        free_GiB=float(row["Free GiB"]),
        total_GiB=float(row["Total GiB"]),
        warnings=[row["Warnings"]] if row["Warnings"] else [],
        optimizer=row.get("optimizer") or "lbfgs",
        validation=_known(row.get("validation loss")),
        deviance=_known(row.get("deviance")),
        free_deviance=_known(row.get("free deviance")),
    )


def _known(cell: str | None) -> float | None:
    return float(cell) if cell else None
