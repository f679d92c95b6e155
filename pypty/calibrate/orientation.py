"""Orientation of the detector relative to the scan: rotation, and one of the eight flips and transposes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from pypty.calibrate.edge import fit_edge
from pypty.calibrate.fields import Maps, attraction, curl_angle, free_of_curl, read_maps
from pypty.calibrate.measured import open_far_field, pixel_weights, wrap_deg
from pypty.calibrate.shifts import best_number, mirror, refine, search, split, turn
from pypty.calibrate.suggestion import Suggestion, unsure_line
from pypty.data.scan import COLUMNS, ROWS, SNAKE, SNAKE_COLUMNS
from pypty.experiment import Experiment
from pypty.plots.calibration import plot_orientation

BRIGHT_FIELD = "bright-field shifts"
CURL = "curl"
SMALLEST_SHIFT = 0.75
"""Shift of the outermost pixels, in scan steps, below which bright-field images hardly differ."""
SMALLEST_COHERENCE = 0.08  # below it shifts of the images are noise
CLEAR = 1.3
"""Ratio of the coherence of the two hands from which the shifts decide."""
_SURE = 1.2
"""Ratio of the best score to the next below which the result is called unsure."""
_LARGEST_SHIFT = 0.25
"""Largest shift in the search, as a fraction of the shorter side of the scan."""
_UNDECIDED = 0.1  # correlation below which attraction decides nothing
_FEWEST_POINTS = 10  # along each axis of the scan; fewer are too few to be sure
_STRONG = 0.3  # correlation from which attraction is a sure sign
_SAME_DEG = 5.0  # between a given and a measured rotation that agree
EXCHANGED: Mapping[str, str] = MappingProxyType(
    {ROWS: COLUMNS, COLUMNS: ROWS, SNAKE: SNAKE_COLUMNS, SNAKE_COLUMNS: SNAKE}
)
"""``scan_order`` with slow and fast axis exchanged."""
THICK = 0.03
"""Fraction of the counts outside the disk above which a specimen is called thick: the attraction may change its
sign."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One of the eight orientations, at its best angle.

    Attributes
    ----------
    flip : the patterns, as they are now, have their ky axis reversed
    angle_deg : PLRotation_deg with it
    curl_free : 1 for centres of mass without curl, 0 for centres of mass without divergence
    aligned : coherence of the images of bright-field pixels after a shift by defocus, 0 to 1
    C10_A : overfocus of that shift
    attracted : -1 to 1, correlation of deflection and dark-field gradient
    score : 0 to 1; the largest decides
    """

    flip: bool
    angle_deg: float
    curl_free: float
    aligned: float
    C10_A: float
    attracted: float
    score: float


@dataclass(frozen=True)
class _Measured:
    """The estimator that decides, and its ``angles`` (modulo 90 deg) for both hands (not flipped, flipped)."""

    angles: tuple[float, float]
    decides: str
    spread: float


def orientation(params: Mapping[str, Any], quick: bool = False) -> Suggestion:
    """Rotation and handedness of the detector, from the patterns alone.

    Two estimators score each of the eight orientations (``flip_ky`` and a quadrant of ``PLRotation_deg``).
    *Shifts*: a defocused beam moves the image of each bright-field pixel in proportion to its k; the polar
    decomposition of the matrix that maps k to the shift gives rotation, handedness and defocus. *Curl*: centres of mass
    have no curl in the right frame. The shifts decide where the defocus moves images by more than about a scan step,
    otherwise the curl. Neither can distinguish half a turn together with the opposite sign of the defocus (or of the
    specimen's phase). That is decided by the sign of the nominal defocus (``extra_probe_defocus``, ``aberrations``,
    ``defocus``; half of ``total_thickness`` is added) if it is given, otherwise by the attraction of the beam by atoms,
    which holds for thin specimens.

    Parameters
    ----------
    params : parameters of the data with ``scan_size``; ``scan_step_A`` and a pixel size for the defocus in Å
    quick : compare a third of the images at their strongest frequencies only, and draw no figure: right within a few
        degrees, for a check

    Returns
    -------
    Suggestion
        ``PLRotation_deg``, ``flip_ky``, and ``data_shift_vector`` if the flip changes. Values:
        ``rotation_deg``, ``flip_ky``, ``candidates`` (8 of :class:`Candidate`, best first), ``margin``
        (score of the best over the next), ``decided_by``, ``half_turn_by`` ("defocus", "attraction" or
        "nothing"), ``C10_A``, ``C12_A`` (size of the two-fold astigmatism, distortion of the scan included),
        ``rotation_curl_deg``, ``exchanged_deg`` (the rotation with slow and fast axis of the scan exchanged, which is
        the same as a flip; None without one), ``unsure`` (reasons why hand and rotation may be wrong),
        ``half_turn_unsure`` (the same for half a turn). If that rotation, and not the measured one, is the given
        ``PLRotation_deg``, ``scan_order`` (and ``scan_size``) are suggested instead of a flip.

    Raises
    ------
    DataError
        There is no disk, or the scan has fewer than 6 x 6 points.
    ParameterError
        The data are not diffraction patterns.
    """
    experiment = open_far_field(params, "orientation")
    try:
        weights = pixel_weights(experiment)
        edge = fit_edge(np.nan_to_num(experiment.mean_pattern), weights)
        maps = read_maps(experiment, edge, weights)
    finally:
        experiment.source.close()
    if quick:
        maps = dataclasses.replace(maps, images=maps.images.coarse)
    # Shift in scan steps of the image of a pixel at k = 1 px, for C10 = 1 Å.
    per_A = experiment.wavelength * float(np.mean(experiment.pixel_1A)) / experiment.step_A
    measured = _measure(maps)
    nominal = _nominal_C10(experiment)
    dark = float(maps.dark.mean())
    candidates, by = _candidates(maps, measured, per_A, nominal, dark, experiment.rotation_deg)
    best = candidates[0]
    others = [c.score for c in candidates[1:]]
    margin = best.score / max(others) if max(others) > 0 else math.inf
    exchanged = wrap_deg(-90 - best.angle_deg) if best.flip else None
    suggested = _suggested(experiment, best, exchanged)
    curl = curl_angle(maps.com, best.flip)[0]  # modulo half a turn
    values = {
        "rotation_deg": best.angle_deg,
        "flip_ky": bool(experiment.preprocess.flip_ky != best.flip),
        "exchanged_deg": exchanged,
        "candidates": tuple(candidates),
        "margin": margin,
        "decided_by": measured.decides,
        "half_turn_by": by,
        "C10_A": best.C10_A,
        "C12_A": measured.spread / per_A,
        "rotation_curl_deg": _near(curl, best.angle_deg, 180.0),
        "outside_disk": dark,
        "unsure": _doubts(experiment.scan_size, measured.decides, margin, best),
        "half_turn_unsure": _half_turn_doubts(by, best, dark),
    }
    text = _text(values, params, experiment)
    if quick:
        return Suggestion(suggested, values, text)
    field = np.einsum("ij,jk,kyx->iyx", turn(best.angle_deg), mirror(best.flip), maps.com)
    rows = [
        (experiment.preprocess.flip_ky != c.flip, c.angle_deg, c.curl_free, c.aligned, c.attracted, c.score)
        for c in candidates
    ]
    figure = plot_orientation(field, maps.dark, rows, experiment.step_A, edge.radius_px)
    return Suggestion(suggested, values, text, figure)


def _suggested(experiment: Experiment, best: Candidate, exchanged: float | None) -> dict[str, Any]:
    """A flip, or exchanged axes of the scan if only they agree with the given rotation."""
    if (
        exchanged is not None
        and _fits_given(experiment, exchanged)
        and not _fits_given(experiment, best.angle_deg)
    ):
        size = experiment.scan_size
        swapped = {} if size[0] == size[1] else {"scan_size": [size[1], size[0]]}
        order = EXCHANGED[experiment.settings["scan_order"]]
        return {"scan_order": order, **swapped, "PLRotation_deg": exchanged}
    suggested: dict[str, Any] = {
        "flip_ky": bool(experiment.preprocess.flip_ky != best.flip),
        "PLRotation_deg": best.angle_deg,
    }
    if best.flip:
        suggested["data_shift_vector"] = _shift_after_flip(experiment)
    return suggested


def _fits_given(experiment: Experiment, angle_deg: float) -> bool:
    given = "PLRotation_deg" in experiment.settings.set_by_user
    return given and abs(wrap_deg(angle_deg - experiment.rotation_deg)) < _SAME_DEG


def _doubts(size: tuple[int, int], decides: str, margin: float, best: Candidate) -> tuple[str, ...]:
    """Reasons why hand and rotation (modulo half a turn) may be wrong."""
    doubts = list(few_points(size))
    if decides == CURL:
        doubts.append(curl_doubt(best.curl_free))
    if margin < _SURE:
        doubts.append(
            f"the next orientation is nearly as good ({margin:.2f} times): check the order of scan_size (slow, fast)"
        )
    return tuple(doubts)


def curl_doubt(curl_free: float) -> str:
    """The doubt about an orientation that the shifts of images do not confirm."""
    return (
        f"the curl alone decides ({100 * curl_free:.0f} % free of curl): the images of bright-field pixels do not move "
        "clearly (a beam in focus, few counts, or a flat specimen)"
    )


def few_points(size: tuple[int, ...]) -> tuple[str, ...]:
    """The doubt about a small scan; none about a larger one."""
    return (f"{size[0]} x {size[1]} scan points are few",) if min(size) < _FEWEST_POINTS else ()


def _half_turn_doubts(by: str, best: Candidate, dark: float) -> tuple[str, ...]:
    if by == "nothing":
        return ("half a turn more fits as well",)
    if by == "attraction" and (best.attracted < _STRONG or dark > THICK):
        return (
            f"half a turn was decided by a weak or doubtful sign, the attraction by atoms ({best.attracted:+.2f})",
        )
    return ()


def largest_shift(maps: Maps) -> float:
    """Largest shift of an image that is searched for, scan steps."""
    return max(1.0, _LARGEST_SHIFT * min(maps.dark.shape))


def _measure(maps: Maps) -> _Measured:
    """Angles for both hands by the estimator that decides."""
    images, largest = maps.images, largest_shift(maps)
    matrices = [search(images, flip, largest) for flip in (False, True)]
    coherence = [images.coherence(matrix) for matrix in matrices]
    # 0 not flipped, 1 flipped
    hand = int(np.argmax(coherence))
    refined = refine(images, matrices[hand])
    # With all four elements free the fit may cross over to the other hand; then the similarity is kept.
    if np.linalg.det(refined @ mirror(bool(hand))) > 0:
        matrices[hand] = refined
    rim = float(np.hypot(*images.k.T).max())
    moved = rim * split(matrices[hand], bool(hand))[1]
    clear = coherence[hand] > SMALLEST_COHERENCE and coherence[hand] > CLEAR * max(coherence[1 - hand], 0)
    if moved > SMALLEST_SHIFT and clear:
        # Minus: overfocus, the usual sign, shifts images by - lambda C10 k.
        angles = tuple(split(-matrices[h], bool(h))[0] for h in (0, 1))
        return _Measured((angles[0], angles[1]), BRIGHT_FIELD, split(matrices[hand], bool(hand))[2])
    curls = tuple(curl_angle(maps.com, flip)[0] for flip in (False, True))
    return _Measured((curls[0], curls[1]), CURL, 0.0)


def _candidates(
    maps: Maps, measured: _Measured, per_A: float, nominal: float, dark: float, now_deg: float
) -> tuple[list[Candidate], str]:
    """All eight candidates, best first, and the criterion that decided about half a turn."""
    largest = largest_shift(maps)
    candidates = []
    for flip in (False, True):
        for quadrant in range(4):
            angle = wrap_deg(measured.angles[int(flip)] + 90 * quadrant)
            number, aligned = best_number(maps.images, angle, flip, largest)
            candidates.append(
                Candidate(
                    flip=flip,
                    angle_deg=angle,
                    curl_free=free_of_curl(maps.com, flip, angle),
                    aligned=max(aligned, 0.0),
                    C10_A=-number / per_A,
                    attracted=attraction(maps, flip, angle),
                    score=0.0,
                )
            )
    by_shifts = measured.decides == BRIGHT_FIELD
    strongest = max(candidates, key=lambda c: c.aligned if by_shifts else c.curl_free)
    by = "nothing"
    if by_shifts and nominal != 0:
        by = "defocus"
    elif abs(strongest.attracted) > _UNDECIDED:
        by = "attraction"
    scored = []
    for c in candidates:
        # how well the orientation fits, times how well its half turn does
        fit = c.aligned if by_shifts else c.curl_free
        if by == "defocus":
            side = 1.0 if c.C10_A * nominal > 0 else 0.0
        elif by == "attraction":
            side = 0.5 * (1 + c.attracted)
        else:  # the half turn nearer to the rotation of the parameters
            side = 1.0 if abs(wrap_deg(c.angle_deg - now_deg)) <= 90 else 0.5
        scored.append(Candidate(**{**c.__dict__, "score": fit * side}))
    return sorted(scored, key=lambda c: -c.score), by


def _nominal_C10(experiment: Experiment) -> float:
    """C10 of the parameters at the middle of the specimen, Å; 0 if it is not given."""
    c10 = float(experiment.aberrations_A[0])
    if c10 == 0:
        c10 = _recorded(experiment, "defocus")  # in the sign of C10
    return c10 + 0.5 * _recorded(experiment, "total_thickness") if c10 != 0 else 0.0


def _recorded(experiment: Experiment, key: str) -> float:
    try:
        value = float(experiment.settings.value(key))
    except (TypeError, ValueError):
        return 0.0
    return value if math.isfinite(value) else 0.0


def _shift_after_flip(experiment: Experiment) -> np.ndarray:
    """The shift that keeps the zero frequency at n//2 when ky is reversed: pixel j becomes n - 1 - j."""
    shift = np.array(experiment.preprocess.shift)
    n = experiment.source.shape[1]
    return np.array([2 * (n // 2) - n + 1 - shift[0], shift[1]])


def _near(angle: float, reference: float, period: float) -> float:
    """The same angle modulo the period, as near as possible to the reference."""
    return float(angle - period * np.round((angle - reference) / period))


def _text(values: Mapping[str, Any], params: Mapping[str, Any], experiment: Experiment) -> str:
    best: Candidate = values["candidates"][0]
    lines = [
        f"orientation: PLRotation_deg = {values['rotation_deg']:.2f}, flip_ky = {values['flip_ky']}; decided by "
        f"{values['decided_by']}, {values['margin']:.2f} times the score of the next of eight",
        f"  the curl of the centres of mass gives {values['rotation_curl_deg']:.2f} deg "
        f"({100 * best.curl_free:.0f} % free of curl)",
    ]
    if values["decided_by"] == BRIGHT_FIELD:
        lines.append(
            f"  the images of bright-field pixels coincide for an overfocus C10 = {best.C10_A:.0f} Å "
            f"({100 * best.aligned:.0f} %)"
        )
    if values["half_turn_by"] == "defocus":
        lines.append("  half a turn was decided by the sign of the nominal defocus")
        if best.attracted < -_UNDECIDED:
            lines.append(
                f"  with this sign atoms seem to repel the beam ({best.attracted:+.2f}): the specimen is thick, or the "
                "sign of the nominal defocus is wrong"
            )
    elif values["half_turn_by"] == "attraction":
        lines.append(
            f"  half a turn was decided by the attraction of the beam by atoms ({best.attracted:+.2f} of 1)"
        )
        if values["outside_disk"] > THICK:
            lines.append(
                f"  WARNING: {100 * values['outside_disk']:.1f} % of the counts are outside the disk; in such a thick "
                "specimen the beam oscillates through the columns, and this sign is not reliable: use "
                "pypty.calibrate.specimen (multislice fits), or give the nominal defocus (extra_probe_defocus)"
            )
    else:
        lines.append(
            "  WARNING: this rotation cannot be distinguished from half a turn more; give the nominal defocus, or "
            "try both"
        )
    if values["exchanged_deg"] is not None:
        order = EXCHANGED[experiment.settings["scan_order"]]
        lines.append(
            "  the patterns are mirrored: the detector is flipped, or slow and fast axis of the scan are exchanged "
            f"(scan_order = {order!r}, flip_ky = {experiment.preprocess.flip_ky}, PLRotation_deg = "
            f"{values['exchanged_deg']:.2f}); the patterns cannot tell which, and the image of the one is the mirrored "
            "image of the other"
        )
    if params.get("positions") is not None:
        lines.append("  positions were given: compute them again with this rotation")
    return "\n".join([*lines, *unsure_line((*values["unsure"], *values["half_turn_unsure"]))])
