"""The public functions that judge a finished reconstruction: verdict, fit_quality."""

from __future__ import annotations

from pypty.errors import ParameterError
from pypty.refits.reopen import Finished, at_the_end
from pypty.trust.quality import FitQuality
from pypty.trust.verdict import Verdict, verdict_on

__all__ = ["fit_quality", "verdict"]


def verdict(finished: Finished, **changes: object) -> Verdict:
    """How well a result describes its data, and what is wrong if it does not: one pass over the patterns. Writes no
    files.

    Parameters
    ----------
    finished : a result, an output folder, whose arrays are judged, or parameters or a result file, whose start is
    changes : parameters that replace those, such as data_path

    Raises
    ------
    ParameterError
        The parameters or the data have problems; the message lists all.
    """
    return verdict_on({**at_the_end(finished), **changes})


def fit_quality(finished: Finished, **changes: object) -> FitQuality:
    """The numbers of :func:`verdict`.

    Raises
    ------
    ParameterError
        As for :func:`verdict`; or nothing can be measured.
    """
    found = verdict(finished, **changes)
    if found.fit is None:
        raise ParameterError(f"the fit cannot be measured: {found.text}")
    return found.fit
