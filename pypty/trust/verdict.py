"""The verdict on a reconstruction: how far its model describes the data, what is wrong if it does not, and what was not
tested."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from pypty.backend.device_errors import device_errors
from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.epochs.problem import refined_blocks
from pypty.engine.record.interrupts import Interrupts
from pypty.errors import RankError
from pypty.trust.advice import FIXED_PROBE, GAIN
from pypty.trust.measure import last_values, measure, reopened
from pypty.trust.quality import FitQuality
from pypty.trust.signatures import (
    BEYOND_BAD,
    PIX,
    PIX_BAD,
    RATIO,
    RATIO_BAD,
    Context,
    Excess,
    Signature,
    signatures,
)

GOOD, DOUBTFUL, BAD, NOT_TESTED = "good", "doubtful", "bad", "not tested"
_SAYS: Mapping[str, str] = MappingProxyType({GOOD: "good", DOUBTFUL: "UNSURE", BAD: "bad"})
_NEVER_TESTED = ("free pixels", "resolution", "uncertainty")
_HOW: Mapping[str, str] = MappingProxyType(
    {
        "free pixels": "free pixels (free_pixels=0.05)",
        "resolution": "resolution (pypty.resolution)",
        "uncertainty": "uncertainty (pypty.uncertainty)",
        "positions (they were fixed)": "positions, which were fixed (pypty.position_trial)",
    }
)
"""How each can be tested."""
_INVISIBLE = (
    "A good fit does not exclude errors that the object or the probe can take up: pixel size or scan step off by 2 % "
    "(more for few counts), a shift or ramp of the phase, its scale against the probe."
)
_MOST_NAMED = 3

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What can be told of a reconstruction without the truth.

    Attributes
    ----------
    level : "good": the data differ from the model by noise, within limits; "doubtful": a little more; "bad": the model
        does not describe the data, and numbers taken from the reconstruction may be wrong; "not tested"
    measured : the numbers in words, or why nothing was tested
    fit : the numbers, or None if nothing was tested
    signatures : likely causes of a misfit, the most likely first
    not_tested : what this verdict says nothing about
    tests : what further tests have said
    """

    level: str
    measured: str
    fit: FitQuality | None = None
    signatures: tuple[Signature, ...] = ()
    not_tested: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.text

    @classmethod
    def untested(cls, reason: str) -> Verdict:
        """Nothing was tested, for this reason."""
        return cls(
            level=NOT_TESTED,
            measured=reason,
            not_tested=("fit", *_NEVER_TESTED, "positions"),
        )

    @property
    def text(self) -> str:
        """A short paragraph in plain words."""
        if self.level == NOT_TESTED:
            return f"Fit: not tested ({self.measured})."
        parts = [f"Fit: {_SAYS[self.level]}. {self.measured}"]
        # that the probe was fixed is always said
        causes = [
            str(cause)
            for number, cause in enumerate(self.signatures)
            if number < _MOST_NAMED or cause.kind == FIXED_PROBE
        ]
        if causes:
            parts.append("Most likely: " + " Or: ".join(causes))
        elif self.level == GOOD:
            parts.append(_INVISIBLE)
        parts += [f"{says}." for says in self.tests]
        if self.not_tested:
            parts.append(f"Not tested: {', '.join(_HOW.get(name, name) for name in self.not_tested)}.")
        return " ".join(parts)

    def with_test(self, part: str, says: str, good: bool | None) -> Verdict:
        """The verdict after a further test.

        Parameters
        ----------
        part : what it tested: the beginning of an entry of ``not_tested``
        says : its sentence
        good : False makes a good verdict doubtful; None = it cannot tell, and the part stays untested
        """
        others = tuple(name for name in self.not_tested if not name.startswith(part))
        return replace(
            self,
            level=DOUBTFUL if self.level == GOOD and good is False else self.level,
            not_tested=(*others, f"{part} (the data do not tell)") if good is None else others,
            tests=(*self.tests, says[:1].upper() + says[1:]),
        )

    @property
    def headline(self) -> str:
        """The level, and the most likely cause."""
        cause = f": {self.signatures[0].text}" if self.signatures else ""
        return f"Fit: {_SAYS.get(self.level, self.level)}{cause if self.level in (DOUBTFUL, BAD) else ''}"

    def record(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        return {
            "level": self.level,
            "text": self.text,
            "measured": self.measured,
            "signatures": [
                {**asdict(item), "numbers": {key: float(value) for key, value in item.numbers.items()}}
                for item in self.signatures
            ],
            "not_tested": list(self.not_tested),
            "tests": list(self.tests),
            "fit": None if self.fit is None else self.fit.numbers(),
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything by path, as in files."""
        words = json.dumps({**self.record(), "fit": None})
        fit = {} if self.fit is None else {f"fit/{name}": array for name, array in self.fit.arrays().items()}
        return {"words": np.array(words.encode()), **fit}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Verdict:
        """Inverse of :meth:`arrays`; raises KeyError if something is missing."""
        words = json.loads(bytes(np.asarray(arrays["words"]).item()))
        fit = {name[4:]: array for name, array in arrays.items() if name.startswith("fit/")}
        return cls(
            level=words["level"],
            measured=words["measured"],
            fit=FitQuality.from_arrays(fit) if fit else None,
            signatures=tuple(Signature(**item) for item in words["signatures"]),
            not_tested=tuple(words["not_tested"]),
            tests=tuple(words.get("tests", ())),
        )


def verdict_of(run: Reconstruction, deviances: Sequence[float | None] | None = None) -> Verdict:
    """The verdict on a run as it stands now, by one pass over the patterns; the run is not changed. Where memory does
    not suffice, the verdict says so.

    Parameters
    ----------
    deviances : that were recorded of the epochs; None = those of the run
    """
    if deviances is None:
        deviances = [record.deviance for record in run.state.records]
    try:
        with device_errors():
            fit = measure(run)
    except MemoryError:
        _log.warning("the fit could not be tested: out of memory; the result is complete")
        return Verdict.untested("out of memory in the pass over the patterns")
    return judge(fit, context_of(run, deviances), untested_parts(run))


def verdict_at_end(run: Reconstruction, interrupts: Interrupts) -> Verdict:
    """The verdict on a run that has ended and is saved, if it is wanted and there is something to test.

    Parameters
    ----------
    interrupts : of the run; a signal that came, or that comes now, is not kept waiting
    """
    if run.settings["verdict"] in (False, "none"):
        return Verdict.untested("verdict='none'")
    if interrupts.name:
        return Verdict.untested("interrupted before the fit was measured")
    if not run.state.records:
        return Verdict.untested("the run had no epoch")
    try:
        with interrupts.may_interrupt():
            return verdict_of(run)
    except KeyboardInterrupt:
        return Verdict.untested("interrupted while the fit was measured")
    except RankError as error:
        _log.error("the fit could not be tested: %s; the result is complete", error)
        return Verdict.untested("a process of the run was lost while the fit was measured")


def verdict_on(params: Mapping[str, Any], deviances: Sequence[float | None] = ()) -> Verdict:
    """The verdict on the arrays that parameters name as their start.

    Parameters
    ----------
    deviances : that were recorded of the epochs before

    Raises
    ------
    ParameterError
        The parameters or the data have problems; the message lists all.
    """
    run = reopened(params)
    try:
        return verdict_of(run, deviances)
    finally:
        run.setup.close()


def context_of(run: Reconstruction, deviances: Sequence[float | None]) -> Context:
    """What the signatures need to know of a run with these deviances of its epochs."""
    values = [value for value in deviances[-2:] if value is not None and value > 0]
    return Context(
        probe_refined="probe" in refined_blocks(last_values(run), run.state.variables),
        slices=run.state.variables.n_slices,
        falling=float(values[0] / values[1] - 1) if len(values) == 2 else math.nan,
    )


def untested_parts(run: Reconstruction) -> tuple[str, ...]:
    """What a verdict by the fit alone says nothing about."""
    parts = _NEVER_TESTED if run.settings["free_pixels"] == 0 else _NEVER_TESTED[1:]
    moved = run.settings.may_be_on("update_probe_pos")
    return parts if moved else (*parts, "positions (they were fixed)")


def judge(
    fit: FitQuality, context: Context | None = None, not_tested: tuple[str, ...] = _NEVER_TESTED
) -> Verdict:
    """The verdict that follows from the numbers of a fit."""
    if not len(fit.indices) or not math.isfinite(fit.ratio):
        return Verdict.untested("there are no counts on pixels where the model can have any")
    excess, causes = Excess.of(fit), signatures(fit, context)
    return Verdict(
        level=_level(fit, excess, causes),
        measured=_measured(fit),
        fit=fit,
        signatures=causes,
        not_tested=not_tested,
    )


def _level(fit: FitQuality, excess: Excess, causes: tuple[Signature, ...]) -> str:
    kinds = {cause.kind for cause in causes}
    deviance = excess.deviance if fit.counts else 0.0
    if GAIN in kinds:
        # the model is right, only the strength of the noise is not
        deviance = 0.0
    if fit.beyond > BEYOND_BAD or excess.pix >= PIX_BAD / PIX or deviance > RATIO_BAD:
        return BAD
    return DOUBTFUL if causes or deviance > RATIO else GOOD


def _measured(fit: FitQuality) -> str:
    """The numbers in words."""
    if fit.counts:
        text = (
            f"The deviance of the data from the model is {fit.ratio:.3f} times that of noise (a right model has "
            f"{fit.fitted_text} after fitting)"
        )
        if fit.regions:
            text += ": " + ", ".join(f"{name} {region.ratio:.3f}" for name, region in fit.regions.items())
        if math.isfinite(fit.free):
            text += f"; pixels that were not fitted {fit.free:.3f} ± {fit.free_error:.3f}"
    else:
        text = "The data are no counts of electrons, so that the deviance has no expected value and is not judged"
    if math.isfinite(fit.pix):
        text += f"; residuals of neighbouring pixels correlate by {fit.pix:.3f}"
    if math.isfinite(fit.scan):
        text += f", of neighbouring positions by {fit.scan:.3f}"
    return text + "."
