"""The patterns that each epoch uses, and checks that they exist and lie on the object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pypty.data.grouping import select_indices
from pypty.data.scan import Scan, sort_sequence
from pypty.engine.setup.assembly import Setup
from pypty.engine.setup.methods import check_methods
from pypty.errors import ParameterError
from pypty.model.blocks import BLOCKS
from pypty.params.checks.combinations import check_epochs, epochs_to_check
from pypty.params.checks.effects import has_block
from pypty.params.report import Report
from pypty.params.schedule import Constant
from pypty.params.settings import Settings

_HELD_OUT = 0x7E57
"""Second part of the seed of held-out patterns, which keeps their choice independent of the epochs."""


def check_inside(scan: Scan, window: tuple[int, int], indices: np.ndarray, shape: tuple[int, ...]) -> None:
    """Check that the patches of these patterns lie inside an object of shape (…, Y, X).

    Raises
    ------
    ParameterError
        A patch reaches beyond it (a sequence left the field of view with ``use_full_FOV=False``).
    """
    crop_origins = scan.crop_origins[indices]
    ends = crop_origins + np.array(window)
    if (crop_origins < 0).any() or (ends > np.array(shape[-2:])).any():
        raise ParameterError(
            "sequence: patches of some patterns lie outside the object, which covers only the sequence of the first "
            "epoch; set use_full_FOV=True"
        )


def patterns_of_epoch(
    settings: Settings, now: Mapping[str, Any], n_patterns: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sorted indices of the patterns that an epoch fits, and of the held-out ones (``validation_fraction``).

    The seed decides which patterns are held out, the same at every epoch.

    Raises
    ------
    ParameterError
        No pattern is left, or the sequence names one that does not exist.
    """
    indices = sort_sequence(now["sequence"], n_patterns)
    if settings["indices_mode"] != "full":
        size, shape = settings["scan_size"], settings["indices_shape"]
        if size is None:
            raise ParameterError("indices_mode: scan_size is not given; give the scan's points (slow, fast)")
        part = select_indices(
            (int(size[0]), int(size[1])),
            settings["indices_mode"],
            None if shape is None else (int(shape[0]), int(shape[1])),
        )
        indices = np.intersect1d(indices, part)
    held_out = np.zeros(0, np.int64)
    if settings["validation_fraction"] > 0:
        rng = np.random.default_rng((settings["seed"], _HELD_OUT))
        # drawn from all patterns, so that the choice does not depend on the sequence
        chosen = rng.permutation(n_patterns)[: round(settings["validation_fraction"] * n_patterns)]
        held_out = np.intersect1d(indices, chosen)
        indices = np.setdiff1d(indices, chosen)
    if len(indices) == 0:
        raise ParameterError(
            "no pattern is left to fit: sequence, indices_mode and validation_fraction exclude all of them"
        )
    return indices, held_out


def used_at_any_epoch(settings: Settings, n_patterns: int) -> np.ndarray:
    """Sorted indices of the patterns that the sequence of some epoch names.

    Raises
    ------
    ParameterError
        A sequence names a pattern that does not exist.
    """
    schedule = settings.schedules["sequence"]
    if isinstance(schedule, Constant):
        return sort_sequence(schedule.value, n_patterns)
    used = np.zeros(n_patterns, bool)
    for epoch in epochs_to_check(settings):
        used[sort_sequence(schedule.at(epoch), n_patterns)] = True
        if used.all():
            break
    return np.flatnonzero(used)


def check_sequences(
    settings: Settings, scan: Scan, window: tuple[int, int], report: Report, first: int | None = None
) -> None:
    """Check that every epoch has patterns to fit, and that they lie on the object."""
    schedule = settings.schedules["sequence"]
    if any(report.has(key) for key in ("sequence", "indices_mode", "indices_shape", "validation_fraction")):
        return
    share, n = settings["validation_fraction"], len(scan.crop_origins)
    if share > 0 and round(share * n) == 0:
        report.warnings.append(
            f"validation_fraction = {share:g} of {n} patterns is less than one: nothing is held out"
        )
    epochs = epochs_to_check(settings, first)
    for epoch in epochs[:1] if isinstance(schedule, Constant) else epochs:
        try:
            indices, _ = patterns_of_epoch(settings, {"sequence": schedule.at(epoch)}, len(scan.crop_origins))
            check_inside(scan, window, indices, scan.object_shape)
        except ParameterError as error:
            report.note_error(error)
            return


def problems_from(setup: Setup, settings: Settings, epoch: int) -> list[str]:
    """Problems of per-epoch values from an epoch on, after they were edited during the run."""
    report = Report()
    check_epochs(settings, report, epoch)
    check_methods(settings, report, epoch)
    for name, row in BLOCKS.items():
        if row.start is None:
            continue
        if has_block(settings, name, row.switch) and not has_block(setup.settings, name, row.switch):
            report.add(
                row.switch,
                "cannot be switched on during a run that started without it; schedule it from the start",
            )
    check_sequences(settings, setup.scan, setup.grid.shape, report, epoch)
    return report.problems
