"""The order in which the patterns of a raster are stored: row by row, as a snake, column by column, with gaps."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pypty.calibrate.dropped import find_dropped, search_problem
from pypty.calibrate.measured import open_far_field
from pypty.calibrate.neighbours import COMPONENTS, Likeness, features, likeness, odds
from pypty.calibrate.suggestion import Suggestion, unsure_line
from pypty.data.scan import COLUMNS, ROWS, SNAKE, SNAKE_COLUMNS, stored_patterns
from pypty.data.sources import open_source
from pypty.errors import ParameterError
from pypty.experiment import Experiment
from pypty.params.reading import read_parameters
from pypty.params.report import Report
from pypty.plots.calibration import plot_scan_order

_FEWEST_LINES = 10  # lines of the scan; fewer are too few to be sure
_CLEAR = 5.0  # standard errors between the best order and the next
_ALIKE = 0.1  # likeness of successive patterns below which they are hardly alike
_ROUND = 0.5
"""Likeness across the lines over that along them: equal for equal steps, and small if a crystal is undersampled."""


def scan_order(params: Mapping[str, Any], quick: bool = False) -> Suggestion:
    """The order of the scan, and the frames that are missing, from the likeness of neighbouring patterns.

    Patterns of neighbouring scan points are alike where the beam overlaps. Under the right order that holds across the
    lines of the scan as it does along them. Compared are the order of ``params`` and the others: row by row, as a snake
    (every second line backwards), and, if the scan is not square, column by column. In a square scan exchanged axes
    cannot be told from another orientation of the detector (:func:`orientation`). If there are fewer patterns than
    points, the place of the missing ones is searched for, if these are below 10 % of the points, and if the search
    takes no more than about half a minute.

    Parameters
    ----------
    params : parameters of the data with ``scan_size``; ``scan_order`` and ``missing_patterns`` as they are believed
    quick : draw no figure

    Returns
    -------
    Suggestion
        ``scan_order`` and ``missing_patterns``, if they are sure and differ from those of ``params``. Values: ``order``
        (the most likely), ``along`` (likeness of successive patterns, -1 to 1), ``across`` (of neighbours across the
        lines, for each order), ``odds`` (standard errors between the best order and the next), ``contradicts`` (the
        most likely order is not that of ``params``, by five standard errors), ``missing`` (numbers, or None),
        ``unsure`` (reasons).

    Raises
    ------
    DataError
        The patterns cannot be read.
    ParameterError
        The data are not diffraction patterns, there are more patterns than points, or so many fewer that ``scan_size``
        is probably wrong.
    """
    scan = _Scan.of(params)
    given = scan.order
    n_missing = scan.size[0] * scan.size[1] - scan.n
    trials = {name: _trial(scan, name) for name in _possible(given, scan.size)}
    best = max(trials, key=lambda name: trials[name].like.mean_across)
    margin = min(
        (
            odds(trials[best].like.across, trial.like.across, _same_lines(name, best) and n_missing == 0)
            for name, trial in trials.items()
            if name != best
        ),
        default=0.0,
    )
    doubts = _doubts(trials[best], margin, scan, best)
    suggested: dict[str, Any] = {}
    if not doubts and best != given:
        suggested["scan_order"] = best
    if not doubts and scan.searched:
        suggested["missing_patterns"] = trials[best].missing
    values: dict[str, Any] = {
        "order": best,
        "given": given,
        "along": trials[best].like.along,
        "across": {name: trial.like.mean_across for name, trial in trials.items()},
        "odds": margin,
        "contradicts": best != given and margin > _CLEAR and _isotropic(trials[best].like),
        "missing": trials[best].missing,
        "unsure": doubts,
    }
    text = _text(values, scan, trials[best])
    if quick:
        return Suggestion(suggested, values, text)
    across = {name: trial.like.across for name, trial in trials.items()}
    return Suggestion(suggested, values, text, plot_scan_order(across, values["along"], best, given))


@dataclass(frozen=True, kw_only=True)
class StoredScan:
    """How many patterns are stored, and what the parameters say of their order; no pattern is read.

    Attributes
    ----------
    n, n_bytes : number and size of all patterns
    searched : there are fewer patterns than points, and ``missing_patterns`` does not say which
    """

    n: int
    n_bytes: int
    order: str
    size: tuple[int, int]
    missing: np.ndarray | None
    searched: bool

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> StoredScan:
        """Read the parameters and the shape of the data.

        Raises
        ------
        ParameterError
            There are more patterns than points.
        """
        report = Report()
        settings = read_parameters(params, report)
        report.raise_if_any()
        source = open_source(settings)
        if source is None:
            raise ParameterError("no patterns were given; set dataset to an array, or data_path to a file")
        n, layout = int(source.shape[0]), source.scan
        n_bytes = math.prod(source.shape) * source.dtype.itemsize
        source.close()
        order, missing = settings["scan_order"], settings["missing_patterns"]
        given = settings["scan_size"]
        if given is None:
            with_raster = Experiment.from_params(params)  # 4-D data, or a square
            with_raster.source.close()
            size = with_raster.scan_size
        else:
            size = (int(given[0]), int(given[1]))
        lost = 0 if missing is None else len(np.unique(missing))
        if n > size[0] * size[1] - lost:
            raise ParameterError(
                f"scan_order: scan_size {size} has {size[0] * size[1]} points, of which missing_patterns names {lost}, "
                f"but the data have {n} patterns{'' if layout is None else f' as {layout}'}; correct scan_size"
            )
        searched = n < size[0] * size[1] - lost
        return cls(n=n, n_bytes=n_bytes, order=order, size=size, missing=missing, searched=searched)

    def problem(self, most_bytes: int | None = None) -> str | None:
        """Why missing points are not searched for, in words; None if they are, or if there are none.

        Parameters
        ----------
        most_bytes : of patterns that may be read for it; None = any
        """
        if not self.searched:
            return None
        reason = None
        if most_bytes is not None and self.n_bytes > most_bytes:
            reason = f"that reads more than {most_bytes / 2**30:g} GiB (pypty.calibrate.scan_order does it)"
        orders = _possible(self.order, self.size)
        reason = search_problem(self.n, COMPONENTS, self.size, [_along_rows(o) for o in orders]) or reason
        if reason is None:
            return None
        return (
            f"scan_size {self.size} has {self.size[0] * self.size[1]} points, but the data have {self.n} patterns: "
            f"scan_size (slow, fast) is probably wrong. Missing patterns are not searched for, because {reason}; if "
            "frames were really dropped, or the scan was stopped early, name their points in missing_patterns"
        )


@dataclass(frozen=True, kw_only=True)
class _Scan(StoredScan):
    """With ``kept``, (n, components) features of the patterns in the order in which they are stored."""

    kept: np.ndarray

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> _Scan:
        """Read the patterns as one line, whatever their order."""
        stored = StoredScan.of(params)
        problem = stored.problem()
        if problem is not None:
            raise ParameterError(f"scan_order: {problem}")
        changed = {"scan_size": [1, stored.n], "scan_order": ROWS, "missing_patterns": None}
        line = open_far_field({**params, **changed}, "scan_order")
        try:
            kept = features(line)
        finally:
            line.source.close()
        return cls(
            kept=kept, **{field.name: getattr(stored, field.name) for field in dataclasses.fields(stored)}
        )


@dataclass(frozen=True)
class _Trial:
    """One order: the likeness of neighbours, and the missing points (None if there are none)."""

    like: Likeness
    missing: np.ndarray | None
    place_known: bool


def _possible(given: str, size: tuple[int, int]) -> tuple[str, ...]:
    """Orders that differ: in a square scan columns are rows of the mirrored image."""
    rows, columns = (ROWS, SNAKE), (COLUMNS, SNAKE_COLUMNS)
    if size[0] != size[1]:
        return (*rows, *columns)
    return columns if given in columns else rows


def _along_rows(order: str) -> bool:
    return order in (ROWS, SNAKE)


def _same_lines(first: str, second: str) -> bool:
    return _along_rows(first) == _along_rows(second)


def _trial(scan: _Scan, order: str) -> _Trial:
    along_rows = _along_rows(order)
    missing, known = scan.missing, True
    if scan.searched:
        dropped = find_dropped(scan.kept, order, scan.size, along_rows)
        missing, known = dropped.missing, dropped.sure
    points = stored_patterns(order, scan.size, missing).reshape(scan.size)
    return _Trial(likeness(scan.kept, points if along_rows else points.T), missing, known)


def _isotropic(like: Likeness) -> bool:
    """Whether neighbours across the lines are about as alike as along them, and alike at all."""
    return like.along > _ALIKE and like.mean_across > _ROUND * like.along


def _doubts(trial: _Trial, margin: float, scan: _Scan, order: str) -> tuple[str, ...]:
    doubts = []
    lines = scan.size[0] if _along_rows(order) else scan.size[1]
    if min(scan.size) < _FEWEST_LINES:
        doubts.append(f"{scan.size[0]} x {scan.size[1]} points are few")
    like = trial.like
    if like.along <= _ALIKE:
        doubts.append(
            f"successive patterns are hardly alike ({like.along:.2f} of 1): few counts, a flat specimen, or steps that "
            "are too large"
        )
    elif not _isotropic(like):
        doubts.append(
            f"neighbours across the lines are less alike ({like.mean_across:.2f}) than along them ({like.along:.2f}) "
            "in any order"
        )
    elif margin <= _CLEAR:
        doubts.append(f"the next order is only {margin:.1f} standard errors worse ({lines} lines)")
    if not trial.place_known:
        doubts.append("the place of the missing patterns is not certain")
    return tuple(doubts)


def _text(values: Mapping[str, Any], scan: _Scan, trial: _Trial) -> str:
    order, given = values["order"], values["given"]
    across = ", ".join(f"{name} {value:.2f}" for name, value in values["across"].items())
    verdict = "as given" if order == given else f"the parameters say {given!r}"
    out = [
        f"scan_order: {order!r} is the most likely ({verdict}); likeness of neighbours along the lines "
        f"{values['along']:.2f}, across them: {across}"
    ]
    if order != given and not _same_lines(order, given):
        rows, columns = scan.size
        out.append(
            f"  the lines of the scan have {rows} points, not {columns}: either the patterns are stored column by "
            f"column (scan_order), or scan_size is [{columns}, {rows}]; the image of the one is the mirrored image of "
            "the other"
        )
    elif order == given and scan.size[0] == scan.size[1]:
        out.append(
            "  whether slow and fast axis are exchanged is a matter of orientation: the scan is square"
        )
    if scan.searched and trial.missing is not None:
        first, last = int(trial.missing[0]), int(trial.missing[-1])
        out.append(
            f"  {len(trial.missing)} of {scan.size[0] * scan.size[1]} points have no pattern, most likely numbers "
            f"{first} to {last}" + ("" if last - first + 1 == len(trial.missing) else ", in several gaps")
        )
    return "\n".join([*out, *unsure_line(values["unsure"])])
