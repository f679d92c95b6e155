"""First-order methods on named blocks: Adam and its relatives, gradient descent with and without momentum.

Complex arrays are pairs of real numbers: rules work on (..., 2) real numbers, as in PyTorch with its real views.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from pypty.backend.array import Array, array_module, to_host
from pypty.backend.cuda.steps import added, as_reals
from pypty.errors import CheckpointError, ParameterError
from pypty.optimize.fused_steps import fused_step, is_covered
from pypty.optimize.methods import METHODS, Method
from pypty.optimize.update_rules import Part

_PIECE = 1 << 15
"""Size of the pieces in which numbers are stepped on the host, chosen to fit the cache."""


class FirstOrder:
    """One of the methods with its moments.

    A step moves the blocks that have a gradient; the moments and counters of all others do not change.

    Parameters
    ----------
    name : a name in ``methods.METHODS``
    options : its constants (``OPTIMIZER_OPTIONS`` of the parameters); None or absent = PyTorch's default; those of
        other methods are ignored (``unused_options`` names them)
    state : ``state`` of an earlier object, to continue it; not modified

    Raises
    ------
    ParameterError
        The method is not known, or its options contradict each other.
    CheckpointError
        ``state`` belongs to another method.
    """

    def __init__(
        self,
        name: str,
        options: Mapping[str, Any],
        state: Mapping[str, Mapping[str, Array]] | None = None,
    ) -> None:
        if name not in METHODS:
            raise ParameterError(
                f"{name!r} is not a first-order method; expected one of {', '.join(METHODS)}. Choose one of these."
            )
        self.name = name
        self._method: Method = METHODS[name]
        set_options = {key: value for key, value in options.items() if value is not None}
        self._options = {
            key: _plain(set_options.get(key, default)) for key, default in self._method.defaults.items()
        }
        _check(name, self._options)
        # Moments of an earlier object wait here, perhaps on the host, until their block is stepped for the first time.
        self._earlier = {block: dict(arrays) for block, arrays in (state or {}).items()}
        self._state: dict[str, dict[str, Array]] = {}

    @property
    def state(self) -> dict[str, dict[str, Array]]:
        """Moments of each block, as plain arrays to save and to pass to a new object.

        "count" (steps done) and, for nadam, "product" are host arrays of shape (), or (rows,) where rows have been
        stepped separately. Moments of complex blocks are real with a last axis of 2. The arrays are not copies: the
        next step overwrites them.
        """
        return {block: dict(arrays) for block, arrays in {**self._earlier, **self._state}.items()}

    def step(
        self,
        point: Mapping[str, Array],
        gradient: Mapping[str, Array],
        rates: Mapping[str, float | Array],
        rows: Mapping[str, np.ndarray] | None = None,
        momentum: float | None = None,
    ) -> dict[str, Array]:
        """The point after one step. No argument is modified.

        Parameters
        ----------
        point : all blocks; those without gradient are returned unchanged (the same arrays)
        gradient : dL/dRe + i dL/dIm, or dL/dx, of the blocks that move
        rates : learning rate of each of these, a number or an array that broadcasts to the block
        rows : for some blocks the rows (first axis, each once) that this step concerns; all other rows rest
        momentum : instead of ``betas[0]`` or ``momentum`` in this step
        """
        moved = dict(point)
        options = self._with_momentum(momentum)
        for name, slope in gradient.items():
            index = None if rows is None else rows.get(name)
            moved[name] = self._step_block(name, point[name], slope, rates[name], index, options)
        return moved

    def _with_momentum(self, momentum: float | None) -> dict[str, Any]:
        options = dict(self._options)
        if momentum is not None and self._method.momentum == "betas":
            options["betas"] = (float(momentum), options["betas"][1])
        elif momentum is not None and self._method.momentum:
            options["momentum"] = float(momentum)
        return options

    def _step_block(
        self,
        name: str,
        block: Array,
        gradient: Array,
        rate: float | Array,
        rows: np.ndarray | None,
        options: Mapping[str, Any],
    ) -> Array:
        xp = array_module(block)
        now = as_reals(_contiguous(xp, block, block.dtype))
        slope = as_reals(_contiguous(xp, gradient, block.dtype))
        speed = _rate(xp, rate, block, now)
        if rows is not None and len(rows) == 0:
            return xp.array(block, order="C")
        kept = self._kept(xp, name, now, speed, options, rows)
        names = self._method.moments(options, now.ndim)
        if is_covered(self._method.rule, now, speed, kept["count"]) and rows is None:
            new = xp.empty(block.shape, block.dtype)
            self._step_fused(xp, now, slope, float(speed), kept, names, options, as_reals(new))
            return new
        new = xp.array(block, order="C")
        reals = as_reals(new)  # a view of ``new``: complex (...) -> real (..., 2)
        if rows is None:
            self._step_all(xp, reals, slope, speed, kept, names, options)
        else:
            self._step_rows(xp, rows, reals, slope, speed, kept, names, options)
        return new

    def _step_all(
        self,
        xp: Any,
        reals: Array,
        slope: Array,
        speed: Any,
        kept: dict[str, Array],
        names: tuple[str, ...],
        options: Mapping[str, Any],
    ) -> None:
        """The whole block; on the host in pieces that stay in the cache."""
        kept["count"] += 1
        count, counters = kept["count"] * 1.0, {key: kept[key] * 1.0 for key in self._method.counters}
        arrays = [reals, slope, *(kept[key] for key in names)]
        # Pieces give the same numbers only if every number is stepped separately, with one count for all.
        in_pieces = self._method.elementwise and xp is np and np.ndim(count) == 0
        left: dict[str, Any] = {}
        for (point, gradient, *moments), rate in _pieces(arrays, speed) if in_pieces else [(arrays, speed)]:
            part = Part(
                xp=xp,
                point=point,
                gradient=gradient,
                rate=rate,
                count=count,
                moments=dict(zip(names, moments, strict=True)),
                counters=dict(counters),
                newest=float(np.max(count)),
            )
            self._method.rule(part, options)
            left = part.counters
        for key, value in left.items():
            kept[key][...] = value

    def _step_fused(
        self,
        xp: Any,
        now: Array,
        slope: Array,
        speed: float,
        kept: dict[str, Array],
        names: tuple[str, ...],
        options: Mapping[str, Any],
        moved: Array,
    ) -> None:
        """The whole block on a device, in one kernel."""
        kept["count"] += 1
        count = kept["count"] * 1.0
        part = Part(
            xp=xp,
            point=now,
            gradient=slope,
            rate=speed,
            count=count,
            moments={key: kept[key] for key in names},
            counters={key: kept[key] * 1.0 for key in self._method.counters},
            newest=float(count),
        )
        fused_step(self._method.rule, part, options, moved)
        for key, value in part.counters.items():
            kept[key][...] = value

    def _step_rows(
        self,
        xp: Any,
        rows: np.ndarray,
        reals: Array,
        slope: Array,
        speed: Any,
        kept: dict[str, Array],
        names: tuple[str, ...],
        options: Mapping[str, Any],
    ) -> None:
        """Some rows; moments without rows (the column moment of adafactor) are shared by all."""
        kept["count"][rows] += 1
        index = xp.asarray(rows)
        of_rows = {key for key in names if len(kept[key]) == len(reals)}
        # Indexing copies: the rule works on (chosen rows, ...) arrays, which are written back below.
        part = Part(
            xp=xp,
            point=reals[index],
            gradient=slope[index],
            rate=speed[index] if _has_rows(speed, reals) else speed,
            count=kept["count"][rows] * 1.0,
            moments={key: kept[key][index] if key in of_rows else kept[key] for key in names},
            counters={key: kept[key][rows] for key in self._method.counters},
            newest=float(kept["count"].max()),
        )
        self._method.rule(part, options)
        for key, value in part.counters.items():
            kept[key][rows] = value
        reals[index] = part.point
        for key in of_rows:
            kept[key][index] = part.moments[key]

    def _kept(
        self,
        xp: Any,
        name: str,
        reals: Array,
        rate: Any,
        options: Mapping[str, Any],
        rows: np.ndarray | None,
    ) -> dict[str, Array]:
        """Counters and moments of a block: those of an earlier object, copied to this device, or new ones."""
        kept = self._state.get(name)
        if kept is None:
            kept = self._state[name] = self._taken_over(xp, name, reals)
        for key, first in (("count", 0), *self._method.counters.items()):
            if key not in kept:
                kept[key] = np.array(first)
            if rows is not None and kept[key].ndim == 0:
                # () -> (rows,): from the first step of single rows on, each row counts its steps
                kept[key] = np.full(len(reals), kept[key])
        for key in self._method.moments(options, reals.ndim):
            if key not in kept:
                kept[key] = _first_moment(xp, key, reals, rate, options)
        return kept

    def _taken_over(self, xp: Any, name: str, reals: Array) -> dict[str, Array]:
        counters = ("count", *self._method.counters)
        kept = {}
        for key, array in self._earlier.pop(name, {}).items():
            if key in counters:
                kept[key] = np.array(to_host(array))
                fits = kept[key].shape in ((), reals.shape[:1])
            else:
                kept[key] = xp.array(xp.asarray(array), dtype=reals.dtype, order="C")
                fits = _fits(key, kept[key].shape, reals.shape) and key in _moment_names(
                    self.name, reals.ndim
                )
            if not fits:
                raise CheckpointError(
                    f"The optimiser's state has {key!r} of shape {kept[key].shape} for {name!r}, which {self.name} on "
                    f"{reals.shape} real numbers does not have. It belongs to another method or problem: start "
                    "without it."
                )
        return kept


def descended(point: Array, change: Array, length: float) -> Array:
    """point - length x change: a step of gradient descent without a state, of arrays of one type."""
    if not isinstance(point, np.ndarray):
        return added(point, -length, change)
    moved = -length * change
    moved += point
    return moved


def unused_options(name: str, options: Mapping[str, Any]) -> list[str]:
    """Options that are set, but that this method does not have."""
    return [key for key, value in options.items() if value is not None and key not in METHODS[name].defaults]


def _plain(value: Any) -> Any:
    """A value as Python numbers, because those never raise the precision of an array (NumPy scalars may)."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    return (
        tuple(_plain(item) for item in value) if np.ndim(value) else None if value is None else float(value)
    )


def _check(name: str, options: Mapping[str, Any]) -> None:
    """Refuse options for which the formulas are not defined."""
    if any(not 0 <= beta < 1 for beta in options.get("betas", ())):
        raise ParameterError(f"betas of {name} are {options['betas']}; expected two numbers in [0, 1).")
    if name == "rmsprop" and not 0 <= options["alpha"] < 1:
        raise ParameterError(f"alpha of rmsprop is {options['alpha']}; expected a number in [0, 1).")
    if options.get("nesterov") and (not options["momentum"] or options["dampening"]):
        raise ParameterError(
            f"nesterov=True of {name} needs a momentum above 0 and no dampening; given momentum={options['momentum']}, "
            f"dampening={options['dampening']}. Change these, or leave nesterov out."
        )
    shorter, longer = options.get("etas", (0.5, 1.2))
    if not 0 < shorter < 1 < longer:
        raise ParameterError(
            f"etas of {name} are ({shorter}, {longer}); expected one factor below 1 and one above 1."
        )
    if np.ndim(options.get("eps", 0)) and name != "adafactor":
        raise ParameterError(
            f"eps of {name} is {options['eps']}; expected one number (two are for adafactor)."
        )


def _contiguous(xp: Any, array: Array, dtype: Any) -> Array:
    if array.dtype == dtype and array.flags.c_contiguous:
        return array
    return xp.array(array, dtype=dtype, order="C")


def _rate(xp: Any, rate: float | Array, block: Array, reals: Array) -> Any:
    """A number, or an array that broadcasts to the real view."""
    if np.ndim(rate) == 0 and not hasattr(rate, "get"):
        return float(rate)
    array = xp.asarray(rate, dtype=reals.dtype)
    # For a complex block a trailing axis: the same rate for real and imaginary part.
    return array[..., None] if reals.ndim > block.ndim and array.ndim else array


def _pieces(arrays: list[Array], rate: Any) -> Iterator[tuple[list[Array], Any]]:
    """Views of equal parts of contiguous arrays, each with its rate."""
    first = arrays[0]
    if np.ndim(rate) == 0:
        flat = [array.reshape(-1) for array in arrays]
        for begin in range(0, first.size, _PIECE):
            yield [array[begin : begin + _PIECE] for array in flat], rate
    elif rate.ndim == first.ndim and rate.size == len(rate) == len(first):
        # One rate for each row, (rows, 1, ...): every row is a problem with a single rate.
        for row, row_rate in enumerate(rate.reshape(-1)):
            yield from _pieces([array[row] for array in arrays], row_rate)
    else:
        yield arrays, rate


def _has_rows(rate: Any, reals: Array) -> bool:
    return getattr(rate, "ndim", 0) == reals.ndim and len(rate) == len(reals) > 1


def _moment_names(name: str, ndim: int) -> set[str]:
    """All moments that a method may have, whatever its options."""
    # Every option that adds a moment is switched on.
    every = {"amsgrad": True, "centered": True, "momentum": 1.0}
    return set(METHODS[name].moments(every, ndim))


def _fits(key: str, shape: tuple[int, ...], block: tuple[int, ...]) -> bool:
    return shape == _moment_shape(key, block)


def _moment_shape(key: str, block: tuple[int, ...]) -> tuple[int, ...]:
    if key == "row":
        return (*block[:-1], 1)
    return (*block[:-2], 1, block[-1]) if key == "column" else block


def _first_moment(xp: Any, key: str, reals: Array, rate: Any, options: Mapping[str, Any]) -> Array:
    moment = xp.zeros(_moment_shape(key, reals.shape), dtype=reals.dtype)
    if key == "step":  # rprop starts with steps of the learning rate
        moment += rate
    elif key == "average":  # asgd averages points, from the first one on
        moment += reals
    elif key == "sum":
        moment += options["initial_accumulator_value"]
    return moment
