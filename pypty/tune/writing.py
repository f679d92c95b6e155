"""The folder of a search: best.yaml, trials.csv, images of the trials, figures. Several workers may write into it."""

from __future__ import annotations

import csv
import importlib
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pypty._version import __version__
from pypty.output.files import atomic, make_folder, write_array, write_text
from pypty.params.schema import SCHEMA
from pypty.tune.results import Study, TrialRecord, short
from pypty.tune.trial import Outcome

BEST = "best.yaml"
_ARRAYS = "best_arrays"
_INLINE = 16
_LONGEST_NAME = 180


def write_best(folder: Path, params: Mapping[str, Any], trial: TrialRecord, objective: str) -> None:
    """Write the preset of the best trial; ``pypty run best.yaml`` writes its results into the folder ``best``."""
    strip = bool(params.get("strip_dataset_from_params", SCHEMA["strip_dataset_from_params"].default))
    # Data in memory are saved only if strip_dataset_from_params is False, or if they are a mapped file.
    lost = (
        strip and params.get("dataset") is not None and getattr(params["dataset"], "filename", None) is None
    )
    note = "# The patterns were an array in memory: pass dataset again.\n" if lost else ""
    plain = {
        name: _plain(folder, name, value, trial.number)
        for name, value in params.items()
        if name != "dataset" or not lost
    }
    plain["output_folder"] = str((folder / "best").resolve())
    values = ", ".join(f"{name} = {short(value, name)}" for name, value in trial.values.items())
    head = (
        f"# Best of pypty tune (PyPty {__version__}): trial {trial.number}, {objective} {trial.value:.6g}; "
        f"{values}\n"
    )
    text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100, default_flow_style=None)
    write_text(folder / BEST, head + note + text)


def _plain(folder: Path, name: str, value: Any, number: int) -> Any:
    """A value in the types of YAML; larger arrays are written into files whose names contain the trial's number."""
    if name in SCHEMA and SCHEMA[name].is_path(value):
        return str(Path(value).expanduser().resolve())
    if isinstance(value, np.memmap) and value.filename is not None:
        return {"file": str(Path(value.filename).resolve())}
    if isinstance(value, np.ndarray) and name == "dataset":
        path = Path(_ARRAYS) / "dataset.npy"
        if not (folder / path).exists():
            make_folder(folder / _ARRAYS)
            write_array(folder / path, value)
        return {"file": str(path)}
    if isinstance(value, np.ndarray) and (value.size > _INLINE or value.dtype.kind == "c"):
        make_folder(folder / _ARRAYS)
        path = Path(_ARRAYS) / f"{name}_t{number:04d}.npy"
        write_array(folder / path, value)
        return {"file": str(path)}
    return to_yaml(value)


def to_yaml(value: Any) -> Any:
    """A value in the types of YAML; functions are replaced by their names."""
    if isinstance(value, (np.ndarray, np.generic)):
        return to_yaml(value.tolist())
    if isinstance(value, Mapping):
        return {to_yaml(key): to_yaml(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_yaml(item) for item in value]
    if callable(value) and not isinstance(value, type):
        return {"callable": getattr(value, "__qualname__", type(value).__name__)}
    if isinstance(value, np.dtype):
        return value.name
    plain = value is None or type(value) in (bool, int, float, str)
    return value if plain else str(value)


def write_trials(folder: Path, trials: tuple[TrialRecord, ...], objective: str) -> None:
    """Write trials.csv, one row per trial."""
    names = list(dict.fromkeys(name for item in trials for name in item.values))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["trial", "state", objective, *names, "epochs", "time / s", "worker", "note"])
    for item in trials:
        value = "" if item.value is None else repr(item.value)
        row = [item.values.get(name, "") for name in names]
        writer.writerow(
            [item.number, item.state, value, *row, item.epochs, f"{item.seconds:.2f}", item.worker, item.note]
        )
    write_text(folder / "trials.csv", stream.getvalue())


def collated_name(value: float, number: int, values: Mapping[str, Any], epochs: int) -> str:
    """File name like error_0.12345_t0007_C10_-35.2_iter0010; for errors of one sign it sorts by error."""
    parts = "".join(f"_{name}_{short(item, name)}" for name, item in values.items())
    middle = re.sub(r"[^A-Za-z0-9_.+-]", "-", parts)[:_LONGEST_NAME]
    return f"error_{value:.5f}_t{number:04d}{middle}_iter{epochs:04d}"


def write_collated(folder: Path, outcome: Outcome, number: int, values: Mapping[str, Any]) -> None:
    """Write the phase of a trial as PNG, as TIFF (rad) if tifffile is installed, and its tuned values as YAML."""
    from pypty.plots.figures import plot_phase

    folder = make_folder(folder / "trials")
    stem = collated_name(outcome.value, number, values, outcome.epochs)
    title = f"trial {number}: {outcome.value:.5f}"
    with atomic(folder / f"{stem}.png") as temporary:
        plot_phase(outcome.phase, outcome.pixel_size_A, title=title).savefig(temporary, format="png")
    record = {"trial": number, "error": outcome.value, "epochs": outcome.epochs, "pruned": outcome.pruned}
    text = yaml.safe_dump({**record, "parameters": to_yaml(values)}, sort_keys=False, allow_unicode=True)
    write_text(folder / f"{stem}.yaml", text)
    try:
        tifffile = importlib.import_module("tifffile")
    except ImportError:
        return
    per_cm = [1e8 / pixel for pixel in reversed(outcome.pixel_size_A)]  # x, y
    with atomic(folder / f"{stem}.tif") as temporary:
        tifffile.imwrite(
            temporary, outcome.phase.astype(np.float32), resolution=per_cm, resolutionunit="CENTIMETER"
        )


def write_figures(folder: Path, study: Study, units: Mapping[str, str], logs: frozenset[str]) -> list[Path]:
    """Draw the figures of the search; returns their paths."""
    from pypty.plots import tuning

    done = [item for item in study.trials if item.value is not None and item.state in ("complete", "pruned")]
    if not done:
        return []
    # Figures over tuned values use completed trials, if there are any.
    complete = [item for item in done if item.state == "complete"] or done
    pruned = [item.state == "pruned" for item in done]
    objective = study.objective
    figures = {
        "history": tuning.plot_history([item.number for item in done], _values(done), pruned, objective),
        "epochs": tuning.plot_epochs(
            [(item.history, early) for item, early in zip(done, pruned, strict=True)], objective
        ),
    }
    if study.importances:
        figures["importances"] = tuning.plot_importances(study.importances)
    columns: dict[str, list[Any]] = {
        name: [item.values.get(name) for item in complete] for name in study.importances or study.best_params
    }
    if columns:
        numbers = [item.number for item in complete]
        figures["slices"] = tuning.plot_slices(
            columns, _values(complete), numbers=numbers, objective=objective, units=units, logs=logs
        )
    numeric = {name: column for name, column in columns.items() if all(map(_is_number, column))}
    if len(numeric) > 1:
        pair = dict(list(numeric.items())[:2])
        figures["contour"] = tuning.plot_contour(pair, _values(complete), objective, units, logs)
    paths = []
    for name, figure in figures.items():
        paths.append(folder / f"tune_{name}.png")
        with atomic(paths[-1]) as temporary:
            figure.savefig(temporary, format="png")
    return paths


def _values(trials: Sequence[TrialRecord]) -> list[float]:
    return [item.value for item in trials if item.value is not None]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
