"""The public functions that judge a finished reconstruction: verdict, fit_quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pypty.engine.record.finished import records_of
from pypty.engine.setup.reported import reported
from pypty.errors import ParameterError
from pypty.refits.reopen import Finished, at_the_end
from pypty.results.result import Result
from pypty.results.verdict_file import read_verdict
from pypty.trust.quality import FitQuality
from pypty.trust.verdict import Verdict, verdict_on

__all__ = ["fit_quality", "verdict"]


@reported()
def verdict(finished: Finished, **changes: object) -> Verdict:
    """How well a result describes its data, and what is wrong if it does not: what the run has written into its folder,
    or else one pass over the patterns. Writes no files.

    Parameters
    ----------
    finished : a result, an output folder, whose arrays are judged, or parameters or a result file, whose start is
    changes : parameters that replace those, such as data_path; with any, the fit is measured again

    Raises
    ------
    ParameterError
        The parameters or the data have problems; the message lists all.
    """
    folder = folder_of(finished)
    kept = read_verdict(folder) if folder is not None and not changes else None
    return verdict_on({**at_the_end(finished), **changes}, deviances_of(finished)) if kept is None else kept


def folder_of(finished: Finished) -> Path | None:
    """The output folder, if that is what is given."""
    if isinstance(finished, (Result, Mapping)):
        return None
    path = Path(finished).expanduser()
    return path if path.is_dir() else None


def deviances_of(finished: Finished) -> Sequence[float | None]:
    """The deviances that were recorded of the epochs, as far as they are known."""
    if isinstance(finished, Result):
        return finished.history.deviance.tolist()
    folder = folder_of(finished)
    return [] if folder is None else [record.deviance for record in records_of(folder)]


@reported()
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
