"""One rounding for a whole epoch: where memory runs out on the way, the epoch is made again with the smaller batches.

The last digits of sums over patterns depend on the batches in which they are added: on a GPU even in the deterministic
mode, where each batch has its own fixed-point unit, and cuFFT its own algorithm. A trial of a line search must not be
compared with a start that was added in another order, and a run that repeats must not depend on when another program
took the memory. So an epoch has one batch size, and continues as a run that had it from that epoch on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from pypty.objective.objective import Objective

T = TypeVar("T")
_log = logging.getLogger(__name__)


def with_one_rounding(objective: Objective, made: Callable[[], T], again: Callable[[], None]) -> T:
    """What ``made`` returns when it ends with the batch size with which it began.

    Parameters
    ----------
    made : an epoch, which evaluates the objective
    again : restores what an epoch changes; called before ``made`` is called again
    """
    while True:
        rounding = objective.rounding
        result = made()
        if objective.rounding == rounding:
            return result
        # batches only shrink, so this ends
        again()
        _log.info(
            "the epoch is made again with batches of %d, as its sums depend on them", objective.batch_size
        )
