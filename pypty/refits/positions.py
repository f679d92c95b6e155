"""Whether the positions of a finished run should be refined: a short trial, judged by pixels that are not fitted."""

from __future__ import annotations

import dataclasses
import logging
import math
from dataclasses import dataclass

import numpy as np

from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.record.interrupts import Interrupts
from pypty.engine.setup.prepare import prepare
from pypty.engine.setup.reported import reported
from pypty.errors import ParameterError, PyptyError
from pypty.model.blocks import to_public
from pypty.refits.compare import FreeDeviance, of_run, ranking
from pypty.refits.gauge import without_affine
from pypty.refits.refit import completed
from pypty.refits.reopen import Finished, at_the_end
from pypty.results.result import Result

_log = logging.getLogger(__name__)
FIXED, REFINED = "positions fixed", "positions refined"
_FREE = 0.05
_SIGMAS, _LEAST = 3.0, 0.01
"""A gain counts if it is this many standard deviations, and this share of the deviance: positions that are refined
take up a little of any misfit."""
_NOT_FINISHED = "the trial with refined positions was not finished: %s; the result is complete"
HELPS, DOES_NOT_HELP, CANNOT_BE_TOLD = "helps", "does not help", "cannot be told"


@dataclass(frozen=True, kw_only=True)
class PositionTrial:
    """Result of :func:`position_trial`.

    Attributes
    ----------
    gain : by how much refined positions lower the deviance of a free pixel; negative = they raise it
    gain_error : its standard deviation
    deviance : of a free pixel, with fixed positions
    moved_A : root of the mean square of the moves, after shift, scale, rotation and shear of all positions
    epochs : of the trial
    """

    gain: float
    gain_error: float
    deviance: float
    moved_A: float
    epochs: int

    @property
    def outcome(self) -> str:
        """Whether refined positions describe counts better that were not fitted: "helps", "does not help", each beyond
        three standard deviations, or "cannot be told", as where the scan has no blocks that give an error."""
        if not (math.isfinite(self.gain) and math.isfinite(self.gain_error)):
            return CANNOT_BE_TOLD
        uncertain, least = _SIGMAS * self.gain_error, _LEAST * self.deviance
        if self.gain > max(uncertain, least):
            return HELPS
        return DOES_NOT_HELP if self.gain + uncertain < least else CANNOT_BE_TOLD

    @property
    def helps(self) -> bool:
        """Whether refined positions describe counts better that were not fitted, beyond doubt."""
        return self.outcome == HELPS

    @property
    def text(self) -> str:
        """What it says, and what to do."""
        gain = f"{self.gain:.5f} ± {self.gain_error:.5f}"
        numbers = f"deviance of free pixels lower by {gain}, moved by {self.moved_A:.2g} Å"
        if self.helps:
            return f"positions should be refined ({numbers}): set update_probe_pos=True"
        if self.outcome == DOES_NOT_HELP:
            return f"refining positions does not help ({numbers})"
        return (
            f"whether refining positions helps cannot be told ({numbers}): the data are too few or too noisy"
        )

    def __str__(self) -> str:
        return self.text


@reported()
def position_trial(finished: Finished, *, epochs: int = 5) -> PositionTrial:
    """Continue a run for a few epochs twice, with fixed and with refined positions, and compare pixels that are not
    fitted.

    Held-out patterns could not decide: the position of a pattern that is not fitted is not refined.

    Raises
    ------
    ParameterError
        ``epochs`` is not possible, or the parameters have problems.
    """
    if epochs < 1:
        raise ParameterError(f"epochs: given {epochs}, expected at least 1")
    params = at_the_end(finished)
    start = int(params.get("epoch_prev", 0))
    params |= {"epoch_max": start + epochs, "warmup_epochs": 0}
    params["free_pixels"] = params.get("free_pixels") or _FREE
    found: dict[str, FreeDeviance] = {}
    moved_A = 0.0
    for name, refine in ((FIXED, False), (REFINED, True)):
        setup = prepare({**params, "update_probe_pos": refine})
        try:
            run = completed(setup, setup.variables())
            found[name] = of_run(run)
            if refine:
                moved_A = _moved_A(run)
            del run  # its history would be there while the next one makes its own
        finally:
            setup.close()
    return PositionTrial(
        gain=found[FIXED].mean - found[REFINED].mean,
        gain_error=float(ranking(found).errors[1]),
        deviance=found[FIXED].mean,
        moved_A=moved_A,
        epochs=epochs,
    )


def with_trial(result: Result, interrupts: Interrupts) -> Result:
    """A result whose verdict also says whether positions should be refined; as it is if the trial is interrupted, or
    does not fit the memory.

    Parameters
    ----------
    interrupts : of the run; a signal that comes now is not kept waiting
    """
    try:
        with interrupts.may_interrupt():
            trial = position_trial(result)
    except (KeyboardInterrupt, PyptyError) as error:
        _log.warning(_NOT_FINISHED, str(error) or "interrupted")
        return result
    except MemoryError:
        _log.warning(_NOT_FINISHED, "out of memory")
        return result
    good = {HELPS: False, DOES_NOT_HELP: True}.get(trial.outcome)
    return dataclasses.replace(result, verdict=result.verdict.with_test("positions", trial.text, good))


def _moved_A(run: Reconstruction) -> float:
    """Root of the mean square of the moves of a coordinate, without the affine part of all moves."""
    start = run.setup.scan.positions
    change = to_public("positions", run.state.variables.positions) - start
    if len(start) > 3:
        change = without_affine(change, start)
    return float(np.sqrt(np.mean((change * np.asarray(run.setup.grid.pixel_size_A)) ** 2)))
