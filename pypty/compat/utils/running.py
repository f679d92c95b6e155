"""Parts of a run: conditions of the line search, the batch size, reassembly of a scan."""

from __future__ import annotations

from typing import Any

import numpy as np

from pypty.constraints.scan import puzzle
from pypty.engine.setup.prepare import prepare
from pypty.errors import ParameterError


def wolfe_1(
    value: float, new_value: float, d_value: float, step: float, wolfe_c1_constant: float = 0.5
) -> bool:
    """Sufficient decrease: new <= value + c1 step d (Nocedal and Wright, Numerical Optimization, eq. 3.6a).

    Parameters
    ----------
    d_value : directional derivative at the start of the step, negative
    """
    return bool(new_value <= value + wolfe_c1_constant * step * d_value)


def wolfe_2(d_value: float, new_d_value: float, wolfe_c2_constant: float = 0.9) -> bool:
    """Weak curvature condition: new d >= c2 d (eq. 3.6b). A run uses the strong condition, |new d| <= c2 |d|."""
    return bool(new_d_value >= wolfe_c2_constant * d_value)


def get_compute_batch(
    compute_batch: int | str = "auto",
    load_one_by_one: bool = True,
    hist_size: float = 10,
    measured_data_shape: tuple[int, ...] = (1, 64, 64),
    memory_saturation: float = 0.7,
    smart_memory: bool = True,
    data_pad: int = 0,
    obj_shape: tuple[int, int, int, int] = (64, 64, 1, 1),
    probe_shape: tuple[int, ...] = (64, 64, 1),
    dtype: str = "double",
    propmethod: str = "multislice",
    print_flag: int = 0,
) -> int:
    """Number of patterns computed together, from the memory plan of a run with these shapes (:func:`pypty.plan`).

    No arrays of this size are allocated. The number is at least 1; an error is raised if not even one pattern fits.

    Parameters
    ----------
    measured_data_shape : (N, ky, kx)
    obj_shape : (y, x, z, modes); probe_shape : (y, x, modes)
    dtype : "double" or "single"
    smart_memory, print_flag : no effect

    Raises
    ------
    ParameterError
        The shapes do not fit each other.
    ResourceError
        The memory is not sufficient.
    """
    if compute_batch != "auto":
        return int(compute_batch)
    # Broadcast arrays have the shapes without the memory.
    setup = prepare(
        {
            "dataset": np.broadcast_to(np.float32(1), tuple(measured_data_shape)),
            "obj": np.broadcast_to(np.complex64(1), tuple(obj_shape)),
            "probe": np.broadcast_to(np.complex64(1), tuple(probe_shape)),
            "positions": np.zeros((int(measured_data_shape[0]), 2)),
            "data_pad": int(data_pad),
            "default_dtype": dtype,
            "propmethod": propmethod,
            "hist_length": hist_size,
            "load_one_by_one": bool(load_one_by_one),
            "memory_saturation": float(memory_saturation),
            "pixel_size_x_A": 1.0,
            "pixel_size_y_A": 1.0,
        },
        read_data=False,
    )
    setup.close()
    return int(setup.plan.batch)


def position_puzzling(
    points: np.ndarray, scan_size: tuple[int, int], sigma: float = 0.4, score_threshold: float = 1.2
) -> np.ndarray:
    """Reassemble the positions of a scan that was torn into rigid pieces: :func:`pypty.constraints.scan.puzzle`.

    Parameters
    ----------
    points : (N, 2) px [y, x], row-major over ``scan_size`` (slow, fast)
    sigma : blur of the map in which seams are detected; only 0.4 scan points is supported
    score_threshold : roughness below which positions are not changed

    Returns
    -------
    (N, 2) new positions; a copy if the scan is not torn
    """
    if sigma != 0.4:
        raise ParameterError(f"sigma is {sigma!r}, expected 0.4, the only supported value; leave it out")
    positions = np.array(points, float)
    puzzled = puzzle(positions, (int(scan_size[0]), int(scan_size[1])), float(score_threshold))
    return positions if puzzled is None else np.asarray(puzzled.positions)


def phase_cross_corr_align(image: Any, reference: Any) -> tuple[float, float]:
    """[y, x] px that moves ``image`` onto ``reference``: the peak of their phase correlation.

    The cross spectrum is normalised to unit modulus (Kuglin and Hines, Proc. IEEE Conf. Cybern. Soc. (1975) 163). The
    sub-pixel part follows from the peak a and its higher neighbour b, d = b/(a + b) towards b (Foroosh et al., IEEE
    Trans. Image Process. 11 (2002) 188).
    """
    a, b = np.fft.fft2(np.asarray(image)), np.fft.fft2(np.asarray(reference))
    if a.shape != b.shape or a.ndim != 2:
        raise ParameterError(f"images of shapes {a.shape} and {b.shape} given, expected equal shapes (y, x)")
    cross = b * a.conj()
    size = np.abs(cross)
    # Phase correlation: only the phases of the cross-spectrum, which makes the peak narrow.
    correlation = np.fft.ifft2(np.where(size > 1e-12 * size.max(), cross / np.maximum(size, 1e-300), 0)).real
    peak = np.unravel_index(int(correlation.argmax()), correlation.shape)
    shift = []
    for axis, n in enumerate(correlation.shape):
        line = np.take(correlation, peak[1 - axis], axis=1 - axis)
        here = float(line[peak[axis]])
        after, before = float(line[(peak[axis] + 1) % n]), float(line[(peak[axis] - 1) % n])
        side, sign = (after, 1.0) if after >= before else (before, -1.0)
        fraction = sign * max(side, 0.0) / (max(side, 0.0) + here)
        shift.append(float((peak[axis] + fraction + n / 2) % n - n / 2))
    return shift[0], shift[1]
