"""Formulas of the first-order methods, element by element, on arrays of real numbers.

Every rule is ``rule(part, options)``: it advances the moments of ``part`` and moves its point, both in place. The
formulas, their constants and their order of operations are those of PyTorch 2 (its public documentation), which follow
the papers named at each. t is the number of the step, from 1; for single rows of a block each row has its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pypty.backend.array import Array

Options = Mapping[str, Any]


@dataclass(kw_only=True)
class Part:
    """The part of a block that a rule works on: all of it, or some of its rows.

    Attributes
    ----------
    xp : array module
    point : real array, moved in place
    gradient : real array of that shape, only read
    rate : learning rate, a number or an array that broadcasts to the point
    count : number of this step, a float, or (rows,) float64 on the host
    moments : by name, advanced in place
    counters : further numbers that belong to a step, like ``count``; advanced by replacing them
    newest : largest count of the whole block
    """

    xp: Any
    point: Array
    gradient: Array
    rate: Any
    count: Any
    moments: dict[str, Array]
    counters: dict[str, Any] = field(default_factory=dict)
    newest: float = 1.0

    def lift(self, value: Any) -> Any:
        """A number as it is; one number for each row as an array that broadcasts to the point, in its precision."""
        if np.ndim(value) == 0:
            return float(value)
        shape = (-1,) + (1,) * (self.point.ndim - 1)  # (rows,) -> (rows, 1, ...)
        return self.xp.asarray(np.asarray(value).reshape(shape), dtype=self.point.dtype)

    def move(self, step: Array, rate: Any) -> None:
        """point -= rate x step; ``step`` is overwritten."""
        step *= rate
        self.point -= step


def _average(xp: Any, moment: Array, decay: float, value: Array) -> None:
    """moment = decay moment + (1 - decay) value."""
    moment *= decay
    moment += value * (1 - decay)


def _average_square(xp: Any, moment: Array, decay: float, value: Array) -> Array:
    """moment = decay moment + (1 - decay) value^2; returns an array that may be overwritten."""
    work = value * value
    work *= 1 - decay
    moment *= decay
    moment += work
    return work


def _with_decay(part: Part, options: Options) -> Array:
    """Gradient of the loss with its L2 penalty."""
    decay = options["weight_decay"]
    return part.gradient + decay * part.point if decay else part.gradient


def bias(beta: float, count: Any) -> Any:
    """1 - beta^t: what an average that started at zero has reached after t steps."""
    return 1 - beta**count


def root_of_bias(beta: float, count: Any) -> Any:
    """The same for the root of an average of squares."""
    return np.sqrt(bias(beta, count))


def _adam(part: Part, options: Options, gradient: Array) -> None:
    xp, (beta1, beta2) = part.xp, options["betas"]
    mean, square = part.moments["mean"], part.moments["square"]
    _average(xp, mean, beta1, gradient)
    work = _average_square(xp, square, beta2, gradient)
    if options["amsgrad"]:
        largest = part.moments["largest"]
        xp.maximum(largest, square, out=largest)
        square = largest
    # Moments start at zero: 1 - beta^t takes out the bias. eps is added after that, as in PyTorch (in the paper's
    # algorithm 1, not in its faster form).
    xp.sqrt(square, out=work)
    work /= part.lift(root_of_bias(beta2, part.count))
    work += options["eps"]
    xp.divide(mean, work, out=work)
    part.move(work, part.rate / part.lift(bias(beta1, part.count)))


def adam(part: Part, options: Options) -> None:
    """Kingma & Ba 2015, with the largest second moment of Reddi et al. 2018 (``amsgrad``)."""
    _adam(part, options, _with_decay(part, options))


def adamw(part: Part, options: Options) -> None:
    """Loshchilov & Hutter 2019: the decay of the weights is not part of the gradient."""
    part.point *= 1 - part.rate * options["weight_decay"]
    _adam(part, options, part.gradient)


def nadam_factors(part: Part, options: Options) -> tuple[Any, Any]:
    """Factors of the gradient and of its mean in a step; advances the counter "product"."""
    beta1 = options["betas"][0]
    now, coming = (
        beta1 * (1 - 0.5 * 0.96 ** (step * options["momentum_decay"]))
        for step in (part.count, part.count + 1)
    )
    # mu_t of this step and of the next; their running product takes out the bias of a momentum that varies.
    product = part.counters["product"] * now
    part.counters["product"] = product
    return (1 - now) / (1 - product), coming / (1 - product * coming)


def nadam(part: Part, options: Options) -> None:
    """Dozat 2016."""
    xp, (beta1, beta2) = part.xp, options["betas"]
    gradient = _with_decay(part, options)
    mean, square = part.moments["mean"], part.moments["square"]
    of_gradient, of_mean = nadam_factors(part, options)
    _average(xp, mean, beta1, gradient)
    work = _average_square(xp, square, beta2, gradient)
    xp.sqrt(square, out=work)
    work /= part.lift(root_of_bias(beta2, part.count))
    work += options["eps"]
    step = gradient * part.lift(of_gradient)
    step += mean * part.lift(of_mean)
    step /= work
    part.move(step, part.rate)


def radam_factors(beta2: float, count: Any) -> tuple[Any, Any]:
    """(r, p) of the factor r/sqrt(<g^2>) + p of the mean gradient: p = 0 where the variance is bounded, else r = 0."""
    # rho_inf and rho_t of the paper: how many steps the average of squares remembers in the end, and now.
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * count * beta2**count / bias(beta2, count)
    bounded = length > 5
    safe = np.where(
        bounded, length, 6.0
    )  # any value above 4: no root of a negative number in the unused branch
    rectified = np.sqrt(
        (safe - 4) * (safe - 2) * longest / ((longest - 4) * (longest - 2) * safe) if longest > 4 else 0.0
    )
    # Rectified Adam where the variance is bounded; otherwise the factor is 1: descent along the mean gradient.
    root = rectified * root_of_bias(beta2, count)
    return np.where(bounded, root, 0.0), np.where(bounded, 0.0, 1.0)


def radam(part: Part, options: Options) -> None:
    """Liu et al. 2020: no second moment until its variance is bounded (length of the average > 5)."""
    xp, (beta1, beta2) = part.xp, options["betas"]
    gradient = _with_decay(part, options)
    mean, square = part.moments["mean"], part.moments["square"]
    _average(xp, mean, beta1, gradient)
    work = _average_square(xp, square, beta2, gradient)
    count = part.count
    rectified, plain = radam_factors(beta2, count)
    xp.sqrt(square, out=work)
    work += options["eps"]
    xp.divide(part.lift(rectified), work, out=work)
    work += part.lift(plain)
    work *= mean
    part.move(work, part.rate / part.lift(bias(beta1, count)))


def adamax(part: Part, options: Options) -> None:
    """Kingma & Ba 2015, section 7.1: the infinity norm."""
    xp, (beta1, beta2) = part.xp, options["betas"]
    gradient = _with_decay(part, options)
    mean, norm = part.moments["mean"], part.moments["norm"]
    _average(xp, mean, beta1, gradient)
    work = xp.abs(gradient)
    work += options["eps"]
    norm *= beta2
    xp.maximum(norm, work, out=norm)
    xp.divide(mean, norm, out=work)
    part.move(work, part.rate / part.lift(bias(beta1, part.count)))


def share_of_gradient(count: Any, dampening: float) -> Any:
    """Factor of the gradient in the velocity. The first gradient is not dampened, as in PyTorch."""
    return np.where(np.asarray(count) > 1, 1 - dampening, 1.0)


def sgd(part: Part, options: Options) -> None:
    """Gradient descent, with the momentum of Sutskever et al. 2013: velocity = momentum velocity + gradient."""
    gradient, momentum = _with_decay(part, options), options["momentum"]
    if not momentum:
        part.move(gradient * 1.0, part.rate)
        return
    velocity = part.moments["velocity"]
    velocity *= momentum
    velocity += gradient * part.lift(share_of_gradient(part.count, options["dampening"]))
    part.move(gradient + momentum * velocity if options["nesterov"] else velocity * 1.0, part.rate)


def rmsprop(part: Part, options: Options) -> None:
    """Hinton 2012; ``centered`` as Graves 2013."""
    xp, alpha, momentum = part.xp, options["alpha"], options["momentum"]
    gradient = _with_decay(part, options)
    square = part.moments["square"]
    work = _average_square(xp, square, alpha, gradient)
    # centered: divide by the standard deviation of the gradient, sqrt(<g^2> - <g>^2), instead of its rms.
    if options["centered"]:
        mean = part.moments["mean"]
        _average(xp, mean, alpha, gradient)
        xp.multiply(mean, mean, out=work)
        xp.subtract(square, work, out=work)
        xp.sqrt(work, out=work)
    else:
        xp.sqrt(square, out=work)
    work += options["eps"]
    xp.divide(gradient, work, out=work)
    if momentum:
        velocity = part.moments["velocity"]
        velocity *= momentum
        velocity += work
        xp.multiply(velocity, 1.0, out=work)
    part.move(work, part.rate)


def adagrad_divisor(count: Any, decay: float) -> Any:
    """By how much the learning rate has fallen (``lr_decay``)."""
    return 1 + (count - 1) * decay


def adagrad(part: Part, options: Options) -> None:
    """Duchi et al. 2011."""
    xp, total = part.xp, part.moments["sum"]
    gradient = _with_decay(part, options)
    work = gradient * gradient
    total += work
    xp.sqrt(total, out=work)
    work += options["eps"]
    xp.divide(gradient, work, out=work)
    part.move(work, part.rate / part.lift(adagrad_divisor(part.count, options["lr_decay"])))


def adadelta(part: Part, options: Options) -> None:
    """Zeiler 2012."""
    xp, rho, eps = part.xp, options["rho"], options["eps"]
    gradient = _with_decay(part, options)
    # step = g sqrt(<moved^2> + eps) / sqrt(<g^2> + eps): the units of the point, without a learning rate.
    square, moved = part.moments["square"], part.moments["moved"]
    work = _average_square(xp, square, rho, gradient)
    step = moved + eps
    xp.add(square, eps, out=work)
    step /= work
    xp.sqrt(step, out=step)
    step *= gradient
    _average_square(xp, moved, rho, step)
    part.move(step, part.rate)


def adafactor(part: Part, options: Options) -> None:
    """Shazeer & Stern 2018: the second moment as a product of row and column, the step relative to the point.

    The last two axes are the matrix (of complex numbers: one axis and the pair). Where single rows of a matrix are
    stepped, the column's moment is that of all steps.
    """
    xp, gradient = part.xp, part.gradient
    smallest, floor = _adafactor_eps(options["eps"], part.point.dtype)
    fresh = part.count ** options["beta2_decay"]  # 1 - beta2 of this step; 1 in the first one
    rate = xp.minimum(part.xp.asarray(part.rate, dtype=part.point.dtype), part.lift(part.count**-0.5))
    rate = rate * xp.maximum(_rms(xp, part.point), floor)
    if options["weight_decay"]:
        part.point *= 1 - part.rate * options["weight_decay"]
    square = gradient * gradient
    # <g^2> of a matrix (n, m) is kept as row means (n, 1) and column means (1, m): row x column / mean(row).
    if part.point.ndim > 1:
        row, column = part.moments["row"], part.moments["column"]
        row += (square.mean(axis=-1, keepdims=True) - row) * part.lift(fresh)
        newest = part.newest ** options["beta2_decay"] if part.point.ndim == 2 else fresh
        column += (square.mean(axis=-2, keepdims=True) - column) * part.lift(newest)
        xp.multiply(row / xp.maximum(row.mean(axis=-2, keepdims=True), smallest), column, out=square)
    else:
        total = part.moments["square"]
        square -= total
        square *= part.lift(fresh)
        total += square
        xp.multiply(total, 1.0, out=square)
    xp.maximum(square, smallest * smallest, out=square)
    xp.sqrt(square, out=square)
    step = xp.divide(gradient, square, out=square)
    # Clipped where its rms exceeds d: squares that are still small would make it explode.
    step /= xp.maximum(_rms(xp, step) / options["d"], 1.0)
    part.move(step, rate)


def _adafactor_eps(eps: Any, dtype: Any) -> tuple[float, float]:
    """Smallest root of a second moment (None: of the precision) and smallest size of the point."""
    first, second = eps if np.ndim(eps) else (None, eps)
    return float(np.finfo(dtype).eps if first is None else first), float(second)


def _rms(xp: Any, array: Array) -> Array:
    return xp.sqrt((array * array).mean())


def asgd_rate(part: Part, options: Options) -> Any:
    """Length of a step."""
    lambd = options["lambd"]
    return part.rate / (1 + lambd * part.rate * part.lift(part.count - 1)) ** options["alpha"]


def asgd_weight(count: Any, start: float) -> Any:
    """Weight of the newest point in the average."""
    return 1 / np.maximum(1.0, count - 1 - start)


def asgd(part: Part, options: Options) -> None:
    """Polyak & Juditsky 1992. The point itself is moved; its average since step t0 is kept in "average"."""
    gradient, lambd = _with_decay(part, options), options["lambd"]
    eta = asgd_rate(part, options)
    part.point *= 1 - lambd * eta
    part.move(gradient * 1.0, eta)
    average = part.moments["average"]
    average += (part.point - average) * part.lift(asgd_weight(part.count, options["t0"]))


def rprop(part: Part, options: Options) -> None:
    """Riedmiller & Braun 1993: signs only; the learning rate is the first step of every number."""
    xp, (shorter, longer), (low, high) = part.xp, options["etas"], options["step_sizes"]
    before, size = part.moments["gradient"], part.moments["step"]
    product = part.gradient * before
    turned = product < 0
    size *= xp.where(product > 0, float(longer), xp.where(turned, float(shorter), 1.0))
    xp.minimum(size, high, out=size)
    xp.maximum(size, low, out=size)
    before[...] = part.gradient
    before[turned] = 0  # no step where the sign has just changed, and no second reduction at the next step
    part.move(xp.sign(before), size)
