"""Where frames were dropped: the scan points without a pattern that make neighbouring lines of the scan agree best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pypty.data.scan import visits

_MOST_GAPS = 4  # places at which frames are missing
_BUDGET = 2e8  # products of components, about a second for each further gap
_MOST_WORK = 2e9  # products of components for one gap under all orders, about half a minute
_MOST_MISSING = 0.1  # of the points; above it scan_size is wrong, or the scan was stopped
_SIGNIFICANT = 4.0  # standard deviations by which a further gap must be better
_RANGE = 3.0  # standard deviations within which another place is possible
_NEAR = 0.25  # of a line: how well the place must be known

Gap = tuple[int, int]  # stored patterns before it, number of missing ones


@dataclass(frozen=True)
class Dropped:
    """Points without a pattern, in the order of the beam.

    Attributes
    ----------
    missing : (d,) their numbers
    score : the larger, the better neighbours agree
    first, last : smallest and largest number of patterns before the first and the last gap that the data allow
    sure : whether each place is known to a quarter of a line, or is in the last line (then it is put at the end)
    """

    missing: np.ndarray
    score: float
    first: int
    last: int
    sure: bool


def search_problem(n: int, components: int, size: tuple[int, int], lines_along: Sequence[bool]) -> str | None:
    """Why missing points are not searched for, in words; None if a search is worth its time.

    Parameters
    ----------
    n : number of stored patterns, fewer than the points of ``size``
    components : number of features of a pattern
    lines_along : for each order that is tried, whether the lines of the beam are rows of ``size``
    """
    missing = size[0] * size[1] - n
    share = missing / (size[0] * size[1])
    if share >= _MOST_MISSING:
        return (
            f"{missing} would be {100 * share:.0f} % of the points (the limit is {100 * _MOST_MISSING:g} %)"
        )
    lines = [size[1] if rows else size[0] for rows in lines_along]
    places = sum(len(_coarse(n, line)) + line for line in lines)
    if places * n * components > _MOST_WORK:
        return f"a search for {missing} among so many would take more than half a minute"
    return None


def find_dropped(kept: np.ndarray, order: str, size: tuple[int, int], lines_along: bool) -> Dropped:
    """The most likely missing points of a scan with fewer patterns than points.

    Neighbours on the raster must be alike, and a pair that is not alike counts against a hypothesis: with s the
    likeness (a cosine) of a pair, and s1 its mean for successive patterns, the sum of s - s1/2 over all pairs.

    Parameters
    ----------
    kept : (n, components) features of the stored patterns, of unit length
    lines_along : the lines of the beam are rows (else columns) of ``size``
    """
    search = _Search(kept, order, size, lines_along)
    n, d, line = search.n, search.d, search.line
    coarse = _coarse(n, line)
    scores = {int(p): search.score([(int(p), d)]) for p in coarse}
    start = max(scores, key=lambda p: scores[p])
    for p in range(max(0, start - line // 2), min(n, start + line // 2) + 1):
        scores.setdefault(p, search.score([(p, d)]))
    best = max(scores, key=lambda p: scores[p])
    gaps, top = [(best, d)], scores[best]
    first, last = _possible(search, scores, best)
    sure = last - first <= max(2, _NEAR * line)
    if last == n and first >= n - line:
        # Only the last line can be meant: a scan that was stopped early is more usual than a gap in that line.
        best, sure = n, True
        gaps, top = [(best, d)], scores[best]
    if d * len(coarse) * n * kept.shape[1] < _BUDGET:
        gaps, top = _split(search, gaps, top, coarse)
    if len(gaps) > 1:
        ranges = [search.range_of(gaps, number) for number in range(len(gaps))]
        sure = all(high - low <= max(2, _NEAR * line) for low, high in ranges)
        first, last = ranges[0][0], ranges[-1][1]
    return Dropped(_numbers(gaps), top, first, last, bool(sure and search.typical > 0))


def _coarse(n: int, line: int) -> np.ndarray:
    """Numbers of patterns before the gap that are tried first, every quarter of a line."""
    return np.unique(np.concatenate([np.arange(0, n, max(1, line // 4)), [n]]))


def _possible(search: _Search, scores: Mapping[int, float], best: int) -> tuple[int, int]:
    """Smallest and largest place whose score is not worse by more than the scatter of the pairs that tell it from the
    best.
    """
    allowed = _RANGE * search.scatter
    possible = [
        p
        for p, s in scores.items()
        if scores[best] - s < allowed * np.sqrt(min(abs(p - best), search.line) + 1)
    ]
    return min(possible), max(possible)


def _split(search: _Search, gaps: list[Gap], top: float, coarse: np.ndarray) -> tuple[list[Gap], float]:
    """Move a part of a gap to another place, as long as neighbours then agree significantly better."""
    while len(gaps) < _MOST_GAPS:
        trials = []
        for number, (place, length) in enumerate(gaps):
            for part in range(1, length):
                rest = [*gaps[:number], (place, length - part), *gaps[number + 1 :]]
                trials += [(search.score([*rest, (int(p), part)]), rest, int(p), part) for p in coarse]
        if not trials:
            break
        _, rest, place, part = max(trials, key=lambda trial: trial[0])
        found = search.refined([*rest, (place, part)])
        score = search.score(found)
        if score - top < _SIGNIFICANT * search.scatter * np.sqrt(search.line):
            break
        gaps, top = found, score
    return sorted(gaps), top


def _numbers(gaps: Sequence[Gap]) -> np.ndarray:
    """(d,) numbers of the missing points in the order of the beam."""
    lost, numbers = 0, []
    for place, length in sorted(gaps):
        numbers.append(np.arange(place + lost, place + lost + length))
        lost += length
    return np.concatenate(numbers)


class _Search:
    """Scores of hypotheses."""

    def __init__(self, kept: np.ndarray, order: str, size: tuple[int, int], lines_along: bool) -> None:
        self.n, self.d = len(kept), size[0] * size[1] - len(kept)
        self.line = size[1] if lines_along else size[0]
        self._kept, self._path, self._size = kept, visits(order, size), size
        successive = (kept[1:] * kept[:-1]).sum(axis=1)
        self.typical, self.scatter = float(successive.mean()), float(successive.std())

    def score(self, gaps: Sequence[Gap]) -> float:
        present = np.ones(self.n + self.d, bool)
        present[_numbers(gaps)] = False
        # in the order of the beam -> on the raster; zeros at missing points add nothing to the products
        values, here = np.zeros((len(present), self._kept.shape[1])), np.empty(len(present), bool)
        values[self._path[present]], here[self._path] = self._kept, present
        raster, here = values.reshape(*self._size, -1), here.reshape(self._size)
        total = 0.0
        for first, second in (np.s_[:, 1:], np.s_[:, :-1]), (np.s_[1:], np.s_[:-1]):
            pairs = int(np.count_nonzero(here[first] & here[second]))
            total += float(np.einsum("yxc,yxc->", raster[first], raster[second])) - 0.5 * self.typical * pairs
        return total

    def refined(self, gaps: list[Gap]) -> list[Gap]:
        """The best places within half a line, gap by gap."""
        for number in range(len(gaps)):
            place, length = gaps[number]
            near = range(max(0, place - self.line // 2), min(self.n, place + self.line // 2) + 1)
            rest = [*gaps[:number], *gaps[number + 1 :]]
            best = max(near, key=lambda p: self.score([*rest, (p, length)]))
            gaps = [*rest[:number], (best, length), *rest[number:]]
        return gaps

    def range_of(self, gaps: list[Gap], number: int) -> tuple[int, int]:
        """Smallest and largest place of one gap that the data allow, within a line, the others kept."""
        place, length = gaps[number]
        rest = [*gaps[:number], *gaps[number + 1 :]]
        near = range(max(0, place - self.line), min(self.n, place + self.line) + 1)
        return _possible(self, {p: self.score([*rest, (p, length)]) for p in near}, place)
