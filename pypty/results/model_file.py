"""model_iter{NNNN}.h5: a reconstruction with its calibration, history, settings and origin (docs/files.md)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml

from pypty.data.hdf5 import check_tree, open_hdf5
from pypty.errors import CheckpointError
from pypty.model.blocks import BLOCKS
from pypty.output.files import atomic
from pypty.output.settings_file import yaml_value
from pypty.params.presets import read_value
from pypty.results.history import History
from pypty.results.snapshot import Snapshot

FORMAT = "pypty model"
VERSION = 1
PROBE_SCALE = "probe_scale"
"""Entry of the optimiser's state beside the moments: the amplitude that relative rates of the probe refer to."""
_INLINE = 16
_LARGEST = 2**22
"""Largest size of an array setting; larger arrays (weights of every pattern, phase plates) are left out."""


def is_model(file: Any) -> bool:
    """Whether an open HDF5 file is a model file of this package."""
    return bool(file.attrs.get("format", "") == FORMAT)


def write_model(path: Path, snapshot: Snapshot) -> Path:
    """Write a model file.

    Raises
    ------
    OutputError
        It cannot be written.
    """
    with atomic(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs.update(
            format=FORMAT,
            format_version=VERSION,
            epochs_done=snapshot.epochs_done,
            wavelength_A=snapshot.wavelength_A,
            acc_voltage_kV=float(snapshot.settings["acc_voltage"]),
            pixel_size_A=snapshot.pixel_size_A,
        )
        for name, array in snapshot.arrays.items():
            row = BLOCKS[name]
            _dataset(file, f"unknowns/{name}", array).attrs.update(axes=row.axes, unit=row.unit)
        positions = file["unknowns/positions"]
        positions.attrs["meaning"] = "top-left corner of each patch, pixels of obj; add n//2 for its centre"
        for name, array in (
            ("positions_A", snapshot.arrays["positions"]),
            ("start_positions_A", snapshot.start_positions),
        ):
            written = _dataset(file, f"positions/{name}", array * snapshot.pixel_size_A)
            written.attrs.update(axes="pattern, [y x]", unit="Å")
        _dataset(file, "positions/fitted", snapshot.used).attrs["meaning"] = "indices of the patterns"
        for name, array in snapshot.history.arrays().items():
            _dataset(file, f"history/{name}", array)
        file["history"].attrs["loss"] = "before the update of each epoch"
        _write_settings(file, snapshot.settings)
        file["provenance"] = yaml.safe_dump(yaml_value(snapshot.provenance), sort_keys=False)
        for group, state in (
            ("optimizer", snapshot.optimizer_state),
            ("scheduler", snapshot.scheduler_state),
        ):
            for name, array in state.items():
                _dataset(file, f"{group}/{name}", array)
    return path


def read_model(path: str | Path) -> dict[str, Any]:
    """Read a model file.

    Returns
    -------
    dict with the unknowns (obj, probe, positions, slice_distances and the other unknowns of the model), positions_A,
    start_positions_A, fitted, history (:class:`History`), settings (the parameters, without the data set and the
    starting arrays), provenance, epochs_done, pixel_size_A, wavelength_A, acc_voltage_kV, optimizer and scheduler
    (arrays by path)

    Raises
    ------
    CheckpointError
        The file is missing, damaged, or not a model file.
    """
    path = Path(path).expanduser()
    try:
        with open_hdf5(path) as file:
            check_tree(file)
            if not is_model(file):
                raise CheckpointError(
                    f"{str(path)!r} is not a model file of PyPty (format {file.attrs.get('format')!r}); expected one "
                    "of model_iter*.h5; pypty.importers.load_result reads those of other programs"
                )
            if int(file.attrs["format_version"]) > VERSION:
                raise CheckpointError(
                    f"{str(path)!r} has format version {file.attrs['format_version']}; this PyPty reads versions up to "
                    f"{VERSION}; update PyPty"
                )
            return _read(file)
    except CheckpointError:
        raise
    except Exception as error:  # h5py raises many kinds on damaged trees
        raise CheckpointError(f"{str(path)!r} cannot be read as a model file: {error}") from error


def _read(file: Any) -> dict[str, Any]:
    out: dict[str, Any] = {name: file["unknowns"][name][()] for name in BLOCKS if name in file["unknowns"]}
    missing = {"obj", "probe", "positions"} - set(out)
    if missing:
        raise KeyError(f"it has no {', '.join(sorted(missing))}")
    out.update({name: file["positions"][name][()] for name in ("positions_A", "start_positions_A", "fitted")})
    settings = read_value(file["settings"].asstr()[()])
    if "settings_arrays" in file:
        settings.update({name: item[()] for name, item in file["settings_arrays"].items()})
    return {
        **out,
        "history": History.from_arrays(arrays_below(file["history"])),
        "settings": settings,
        "provenance": read_value(file["provenance"].asstr()[()]),
        "epochs_done": int(file.attrs["epochs_done"]),
        "pixel_size_A": _positive(file, "pixel_size_A", (2,)),
        "wavelength_A": float(_positive(file, "wavelength_A")),
        "acc_voltage_kV": float(_positive(file, "acc_voltage_kV")),
        **{name: arrays_below(file[name]) if name in file else {} for name in ("optimizer", "scheduler")},
    }


def _positive(file: Any, name: str, shape: tuple[int, ...] = ()) -> np.ndarray:
    values = np.asarray(file.attrs[name], float)
    if values.shape != shape or not (np.isfinite(values) & (values > 0)).all():
        raise ValueError(f"{name} is {values}, expected positive numbers of shape {shape}")
    return values


def arrays_below(group: Any) -> dict[str, np.ndarray]:
    """All data sets below a group, by path."""
    arrays: dict[str, np.ndarray] = {}

    def take(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            arrays[name] = np.asarray(item[()])

    group.visititems(take)
    return arrays


def _dataset(file: Any, name: str, array: np.ndarray) -> Any:
    packed = {"compression": "gzip", "compression_opts": 1, "shuffle": True} if array.size > 1000 else {}
    return file.create_dataset(name, data=array, **packed)


def _write_settings(file: Any, settings: Mapping[str, Any]) -> None:
    """Write numbers and text as YAML, and arrays as data sets; without data and starting values of the unknowns."""
    plain: dict[str, Any] = {}
    for name, value in settings.items():
        if name == "dataset" or (name in BLOCKS and isinstance(value, np.ndarray)):
            continue
        large = isinstance(value, np.ndarray) and (value.size > _INLINE or value.dtype.kind == "c")
        if not large:
            plain[name] = yaml_value(value)
        elif value.size <= _LARGEST:
            _dataset(file, f"settings_arrays/{name}", value)
    text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100, default_flow_style=None)
    file["settings"] = text
