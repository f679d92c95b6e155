"""One line of the pre-flight: a number, its limit, its meaning and advice."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Status = Literal["pass", "warn", "fail"]
PASS: Status = "pass"
WARN: Status = "warn"
FAIL: Status = "fail"


@dataclass(frozen=True, kw_only=True)
class Item:
    """A single check.

    Attributes
    ----------
    name : name of the check
    status : "pass", "warn" (it may work; read the advice) or "fail" (it will not work)
    value : the number, or a short text
    unit : unit of the value
    limit : values for which the status is "warn" or "fail", in words
    meaning : meaning of the number, in a sentence
    what_to_do : advice to reach "pass"
    """

    name: str
    status: Status
    value: float | str
    unit: str
    limit: str
    meaning: str
    what_to_do: str

    @property
    def text(self) -> str:
        """The value with its unit."""
        shown = self.value if isinstance(self.value, str) else number(self.value)
        return f"{shown} {self.unit}".rstrip()


def number(value: float) -> str:
    """Three significant digits, with an exponent only for very large and very small numbers."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if not 1e-3 <= abs(value) < 1e7:
        return f"{value:.2e}".replace("e+0", "e").replace("e+", "e").replace("e-0", "e-")
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    shown = f"{value:.{digits}f}"
    return shown.rstrip("0").rstrip(".") if "." in shown else shown


def worse_above(value: float, warn: float, fail: float = math.inf) -> Status:
    """Status of a number that should be small."""
    return FAIL if value > fail else WARN if value > warn else PASS


def worse_below(value: float, warn: float, fail: float = -math.inf) -> Status:
    """Status of a number that should be large."""
    return FAIL if value < fail else WARN if value < warn else PASS
