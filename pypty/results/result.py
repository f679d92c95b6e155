"""Results of a reconstruction and of an evaluation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from pypty.engine.setup.reported import reported
from pypty.errors import CheckpointError, ParameterError
from pypty.model.blocks import BLOCKS, OPTIONAL
from pypty.output.checkpoints import to_continue
from pypty.output.files import atomic
from pypty.results.history import History
from pypty.results.model_file import arrays_below
from pypty.trust.quality import FitQuality
from pypty.trust.verdict import Verdict, verdict_on

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ARRAYS = (
    "obj",
    "probe",
    "positions",
    "slice_distances",
    "start_positions",
    "loss",
    "sse",
    "pixel_size_A",
    "epochs",
)
NO_FILES: Mapping[str, Any] = MappingProxyType({"output_folder": "", "resume": False, "overwrite": False})
"""Parameters of a run that writes nothing."""


@dataclass(frozen=True)
class Evaluation:
    """Loss and gradients at the start point, in the public layout (docs/conventions.md).

    Attributes
    ----------
    loss : data term times ``loss_weight``, plus all regularisers
    sse : sum of squared errors (D - I)^2
    regularizers : value of each active regulariser, by the name of its weight
    gradients : for every refined block ("obj", "probe", "positions", "tilts", ...): dL/dRe + i dL/dIm of complex
        arrays, the ordinary derivative of real ones; same shape as the array
    loss_terms : value of each term of ``loss_terms``, times ``loss_weight``
    """

    loss: float
    sse: float
    regularizers: dict[str, float]
    gradients: dict[str, np.ndarray]
    loss_terms: dict[str, float] = field(default_factory=dict)

    def __repr__(self) -> str:
        blocks = ", ".join(f"{name} {g.shape}" for name, g in self.gradients.items())
        return f"Evaluation(loss={self.loss:.8g}, sse={self.sse:.8g}, gradients: {blocks})"


@dataclass(frozen=True, kw_only=True)
class Result:
    """A finished reconstruction.

    Attributes
    ----------
    obj : (y, x, z, modes) complex
    probe : (y, x, modes[, subscans]) complex
    positions : (N, 2) [y, x] in pixels of ``obj``
    slice_distances : Å
    optional : optional unknowns, by name; also available as attributes ``tilts``, ``aberrations_array``,
        ``static_background``, ``beam_current``, ..., which are None if the model lacks them (docs/conventions.md)
    start_positions : (N, 2) starting positions
    loss, sse : before the update of each epoch; the last entry is after the last update
    epochs : indices of the epochs that were done
    pixel_size_A : (2,) [y, x]
    stop_reason : reason why the run ended
    warnings : warnings of the run
    decisions : automatic decisions of the engine: what was chosen where a parameter is "auto", and during the run, with
        the epoch
    executor : how the waves were computed at the end, and why no faster way was taken
    settings : the parameters used
    folder : the output folder, or None
    interrupted_by : the signal that ended the run ("SIGINT" for Ctrl-C, "SIGTERM", "SIGHUP"), or ""
    history : all series recorded per epoch (learning rates, validation, convergence, norms, ...)
    verdict : how well the model describes the data, in words and numbers (docs/trust.md)
    """

    obj: np.ndarray
    probe: np.ndarray
    positions: np.ndarray
    slice_distances: np.ndarray
    start_positions: np.ndarray
    loss: np.ndarray
    sse: np.ndarray
    epochs: np.ndarray
    pixel_size_A: np.ndarray
    stop_reason: str
    optional: Mapping[str, np.ndarray] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    decisions: tuple[str, ...] = ()
    executor: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    interrupted_by: str = ""
    history: History = field(default_factory=lambda: History.of(()))
    verdict: Verdict = field(default_factory=lambda: Verdict.untested("the result does not come from a run"))

    def __getattr__(self, name: str) -> np.ndarray | None:
        if name in OPTIONAL:
            return self.optional.get(name)
        raise AttributeError(f"a Result has no attribute {name!r}")

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *OPTIONAL})

    @property
    def learning_rates(self) -> Mapping[str, np.ndarray]:
        """(epochs,) learning rate of each refined unknown, in the units of the parameter; empty for L-BFGS."""
        return self.history.learning_rates

    @property
    def validation(self) -> np.ndarray:
        """(epochs,) loss of the held-out patterns, per pattern, after each epoch; NaN without such patterns."""
        return self.history.validation

    @property
    def convergence(self) -> Mapping[str, np.ndarray]:
        """(k, 2) epoch and value of every metric of ``convergence_monitor`` (docs/monitoring.md)."""
        return self.history.convergence

    @property
    def phase(self) -> np.ndarray:
        """(y, x) phase in rad, summed over slices, averaged over object modes."""
        return np.angle(self.obj).sum(axis=2).mean(axis=2)

    @property
    def loss_text(self) -> str:
        """First and last loss, in words."""
        return f"{self.loss[0]:.6g} -> {self.loss[-1]:.6g}" if len(self.loss) else "not computed (no epochs)"

    def params(self) -> dict[str, Any]:
        """Parameters that start another run where this one has ended: ``pypty.run({**params, **result.params()})``.

        They are the arrays, ``epoch_prev``, ``skip_preprocessing=True``, and neutral values of the parameters whose
        effect the arrays contain already (``extra_probe_defocus``, ``aberrations``, ...). The optimiser starts anew;
        ``pypty.resume(folder)`` continues exactly.
        """
        arrays = {name: getattr(self, name) for name in BLOCKS if getattr(self, name) is not None}
        done = int(self.epochs[-1]) + 1 if len(self.epochs) else int(self.settings.get("epoch_prev") or 0)
        return to_continue(arrays, done)

    @reported()
    def fit_quality(self, params: Mapping[str, Any] | None = None) -> FitQuality:
        """How well the model describes the data: what the run measured at its end, or else one pass over the patterns.

        Parameters
        ----------
        params : parameters of the run with its data, to measure again; needed for a saved result without a measurement

        Raises
        ------
        ParameterError
            There are no data, or the parameters have problems.
        """
        if params is None and self.verdict.fit is not None:
            return self.verdict.fit
        if params is None and "dataset" not in self.settings:
            raise ParameterError(
                "the fit was not measured, and a result that was saved, or came from another rank, holds no data; give "
                "the parameters of the run: result.fit_quality(params)"
            )
        given = self.settings if params is None else params
        verdict = verdict_on({**given, **self.params(), **NO_FILES})
        if verdict.fit is None:
            raise ParameterError(f"the fit cannot be measured: {verdict.text}")
        return verdict.fit

    def __repr__(self) -> str:
        where = f", folder={str(self.folder)!r}" if self.folder else ""
        return (
            f"Result(obj {self.obj.shape}, probe {self.probe.shape}, {len(self.epochs)} epochs, loss {self.loss_text}, "
            f"stopped: {self.stop_reason}, fit: {self.verdict.level}{where})"
        )

    def save(self, path: str | Path) -> Path:
        """Write one HDF5 file with all arrays (chunked, compressed) and the settings as attributes.

        Raises
        ------
        OutputError
            It cannot be written.
        """
        path = Path(path).expanduser()
        with atomic(path) as temporary, h5py.File(temporary, "w") as file:
            for name in (*_ARRAYS, *OPTIONAL):
                if getattr(self, name) is None:
                    continue
                array = np.asarray(getattr(self, name))
                large = {"compression": "gzip", "compression_opts": 4} if array.size > 1000 else {}
                file.create_dataset(name, data=array, **large)
            file.attrs["stop_reason"] = self.stop_reason
            file.attrs["warnings"] = json.dumps(self.warnings)
            file.attrs["decisions"] = json.dumps(self.decisions)
            file.attrs["executor"] = self.executor
            for name, series in self.history.arrays().items():
                file[f"history/{name}"] = series
            for name, value in self.verdict.arrays().items():
                file[f"verdict/{name}"] = value
            group = file.create_group("settings")
            for name, value in self.settings.items():
                _write_setting(group, name, value)
        return path

    @classmethod
    def load(cls, path: str | Path) -> Result:
        """Read a file that :meth:`save` wrote.

        Raises
        ------
        CheckpointError
            The file is missing, or is not a saved result.
        """
        try:
            with h5py.File(Path(path).expanduser(), "r") as file:
                arrays = {name: file[name][()] for name in _ARRAYS}
                optional = {name: file[name][()] for name in OPTIONAL if name in file}
                settings = {name: _read_setting(item) for name, item in file["settings"].items()}
                history = arrays_below(file["history"]) if "history" in file else None
                verdict = (
                    Verdict.from_arrays(arrays_below(file["verdict"]))
                    if "verdict" in file
                    else Verdict.untested("by the version that wrote the file")
                )
                return cls(
                    **arrays,
                    optional=optional,
                    history=History.of(()) if history is None else History.from_arrays(history),
                    stop_reason=str(file.attrs["stop_reason"]),
                    warnings=tuple(json.loads(file.attrs["warnings"])),
                    decisions=tuple(json.loads(file.attrs.get("decisions", "[]"))),
                    executor=str(file.attrs.get("executor", "")),
                    settings=settings,
                    verdict=verdict,
                )
        except (OSError, KeyError) as error:
            raise CheckpointError(f"{str(path)!r} is not a saved result: {error}") from error

    def plot(self) -> Figure:
        """One figure: object phase with scale bar, strongest probe mode, deviance (or loss), positions."""
        from pypty.plots.overview import plot_result

        return plot_result(self)

    def plot_convergence(self, dynamic: bool = False) -> Figure:
        """Plot loss, changes of object, probe and positions, tilts, rates and slice distance over the epochs.

        Parameters
        ----------
        dynamic : start falling curves at their knee
        """
        from pypty.plots.series import plot_convergence

        return plot_convergence(self.history, dynamic)


def _write_setting(group: Any, name: str, value: Any) -> None:
    """Write numbers and arrays as they are, other values as text; leave out None and the data set."""
    if value is None or name == "dataset":
        return
    try:
        array = np.asarray(value)
    except ValueError:  # a ragged list
        array = np.asarray(None)
    group[name] = array if array.dtype.kind in "biufc" else json.dumps(value, default=str)


def _read_setting(item: h5py.Dataset) -> Any:
    """A number or an array, or words, lists and tables from JSON; files of earlier versions have plain text."""
    if item.dtype.kind != "O":
        return item[()]
    text = item.asstr()[()]
    try:
        return json.loads(text)
    except ValueError:
        return text
