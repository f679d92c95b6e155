"""History of a reconstruction: series of numbers over the epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from pypty.output.loss_log import EpochRecord

_OPTIONAL = ("validation", "deviance", "free_deviance")
_BY_NAME = ("learning_rates", "loss_terms", "regularizers", "gradient_norms", "update_norms")


@dataclass(frozen=True, kw_only=True)
class History:
    """Series over epochs; NaN for epochs without a value.

    Attributes
    ----------
    epochs : (n,) indices of the epochs
    time_s : (n,) since the start, at the end of each epoch
    loss, sse : (n,) before the update
    validation : (n,) loss of the held-out patterns, per pattern, after the update
    deviance : (n,) of one of every 64 patterns in units of its expectation, after the update: 1 for a right model
    free_deviance : (n,) mean deviance of a free pixel (``free_pixels``), before the update
    step : (n,) accepted step of the line search
    optimizer : (n,) method that updated the unknowns
    mean_slice_distance_A : (n,) after the update
    mean_tilt_mrad : (n, 2) [y, x] inside the specimen, after the update
    learning_rates : (n,) each, with the names and units of the parameter ``learning_rates``
    loss_terms, regularizers : (n,) each
    gradient_norms, update_norms : (n,) each, root of the mean square of gradient and change of a block
    convergence : (k, 2) each: epoch, and the change since the previous snapshot (docs/monitoring.md)
    """

    epochs: np.ndarray
    time_s: np.ndarray
    loss: np.ndarray
    sse: np.ndarray
    validation: np.ndarray
    deviance: np.ndarray
    free_deviance: np.ndarray
    step: np.ndarray
    optimizer: tuple[str, ...]
    mean_slice_distance_A: np.ndarray
    mean_tilt_mrad: np.ndarray
    learning_rates: Mapping[str, np.ndarray] = field(default_factory=dict)
    loss_terms: Mapping[str, np.ndarray] = field(default_factory=dict)
    regularizers: Mapping[str, np.ndarray] = field(default_factory=dict)
    gradient_norms: Mapping[str, np.ndarray] = field(default_factory=dict)
    update_norms: Mapping[str, np.ndarray] = field(default_factory=dict)
    convergence: Mapping[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, records: Sequence[EpochRecord]) -> History:
        """The records of a run as series."""
        terms = {"regularizers": _series([record.terms for record in records])}
        for name in _BY_NAME:
            if name != "regularizers":
                terms[name] = _series([getattr(record, name) for record in records])
        return cls(
            epochs=np.array([record.epoch for record in records], dtype=int),
            time_s=np.array([record.time_s for record in records], dtype=float),
            loss=np.array([record.loss for record in records], dtype=float),
            sse=np.array([record.sse for record in records], dtype=float),
            validation=_optional([record.validation for record in records]),
            deviance=_optional([record.deviance for record in records]),
            free_deviance=_optional([record.free_deviance for record in records]),
            step=np.array([record.step for record in records], dtype=float),
            optimizer=tuple(record.optimizer for record in records),
            mean_slice_distance_A=np.array([record.mean_slice_distance_A for record in records], dtype=float),
            mean_tilt_mrad=np.array([record.mean_tilt_mrad for record in records], float).reshape(-1, 2),
            convergence=_points(records),
            **terms,
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """All series by path ("loss", "learning_rates/probe", ...), as in files."""
        out: dict[str, np.ndarray] = {"optimizer": np.array(self.optimizer, dtype="S")}
        for name, value in vars(self).items():
            if isinstance(value, np.ndarray):
                out[name] = value
            elif isinstance(value, Mapping):
                out.update({f"{name}/{key}": array for key, array in value.items()})
        return out

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> History:
        """Inverse of :meth:`arrays`; raises KeyError if a series is missing."""
        grouped: dict[str, Any] = {name: {} for name in (*_BY_NAME, "convergence")}
        known = {item.name for item in fields(cls)} - {*grouped, "optimizer"}
        plain: dict[str, Any] = {name: array for name, array in arrays.items() if name in known}
        for path, array in arrays.items():
            group, separator, name = path.partition("/")
            if separator and group in grouped:
                grouped[group][name] = array
        # files of earlier versions lack some
        epochs = plain.get("epochs", np.zeros(0))
        plain = {**{name: np.full(len(epochs), np.nan) for name in _OPTIONAL}, **plain}
        missing = known - set(plain)
        if missing:
            raise KeyError(f"it has no history of {', '.join(sorted(missing))}")
        optimizer = tuple(bytes(name).decode() for name in arrays["optimizer"])
        return cls(**plain, **grouped, optimizer=optimizer)


def _series(rows: Sequence[Mapping[str, float]]) -> dict[str, np.ndarray]:
    """One array for every name in any of the rows, in order of appearance."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: np.array([row.get(name, np.nan) for row in rows], dtype=float) for name in names}


def _optional(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], float)


def _points(records: Sequence[EpochRecord]) -> dict[str, np.ndarray]:
    """(k, 2) epoch and value of every metric of the convergence monitor, at its epochs."""
    names = dict.fromkeys(name for record in records for name in record.convergence)
    return {
        name: np.array(
            [(record.epoch, record.convergence[name]) for record in records if name in record.convergence],
            dtype=float,
        )
        for name in names
    }
