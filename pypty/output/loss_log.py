"""loss.csv: one row per epoch, in PyPty's columns. Row k holds the loss before the update of epoch k."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from pypty.output.files import write_text


class Row(Protocol):
    """What a row needs (engine/monitor.py gives it)."""

    epoch: int
    time_s: float
    loss: float
    sse: float
    first_step: float
    step: float
    evaluations: int
    slope: float
    new_slope: float
    terms: dict[str, float]
    free_GiB: float
    total_GiB: float
    warnings: list[str]


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
_AFTER = ("Free GiB", "Total GiB", "Warnings")


def write_loss_log(path: Path, rows: Sequence[Row], level: int) -> None:
    """Rewrite the log: level 1 has one column for all regularisers, level 2 one for each."""
    names = sorted({name for row in rows for name in row.terms}) if level == 2 else []
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*_BEFORE, *(names or ["Constraints contribution"]), *_AFTER])
    for row in rows:
        terms = [row.terms.get(name, 0.0) for name in names] or [sum(row.terms.values())]
        writer.writerow(
            [
                row.epoch,
                f"{row.time_s:.3f}",
                repr(row.loss),
                repr(row.sse),
                row.first_step,
                row.step,
                row.evaluations,
                row.slope,
                row.new_slope,
                *terms,
                f"{row.free_GiB:.3f}",
                f"{row.total_GiB:.3f}",
                "; ".join(row.warnings),
            ]
        )
    write_text(path, stream.getvalue())


def read_loss_log(path: Path) -> list[dict[str, str]]:
    """The rows of a log, by column name."""
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))
