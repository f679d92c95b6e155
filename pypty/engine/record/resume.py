"""resume.h5: everything that an exact restart needs, in one file that is replaced atomically."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pypty.backend.array import PRECISIONS, Backend, to_host
from pypty.backend.fft import export_wisdom, import_wisdom
from pypty.data.hdf5 import check_tree, open_hdf5
from pypty.data.scan import Scan
from pypty.engine.epochs.first_order import Progress
from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.epochs.problem import Signature
from pypty.engine.epochs.state import State
from pypty.engine.epochs.stuck import BlockMonitor
from pypty.engine.record.history_file import HistoryFile, read_history, record_of
from pypty.engine.record.resume_checks import change_of_loss, check_state
from pypty.engine.setup.assembly import Setup, data_fingerprint
from pypty.engine.setup.precision import AUTO, in_precision
from pypty.engine.setup.start import start_distances
from pypty.errors import CheckpointError, ResourceError
from pypty.model.blocks import BLOCKS, Variables
from pypty.objective.share import Evaluated, FreeSums
from pypty.optimize.lbfgs import Lbfgs, Pair, ValueAndGradient
from pypty.optimize.vector import BlockVector
from pypty.output.checkpoints import RESUME_FILE
from pypty.output.files import atomic

FORMAT = 5
_READ = (4, 5)
"""Format 4, of 2.0 before December 2026, holds the history itself."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resumed:
    """A state read back, with the batch size, threads and device that decide its rounding.

    Attributes
    ----------
    setup : with the precision of the state
    history_bytes : of history.jsonl that belong to it; 0 where resume.h5 holds the history itself
    """

    state: State
    setup: Setup
    batch_size: int
    n_threads: int
    device: str
    history_bytes: int = 0

    def rounding(self) -> tuple[int | None, int | None]:
        """Batch size and threads that repeat the rounding of the earlier run; None where the plan decides.

        On another device, or where the parameters name one of them, the earlier values do not apply.
        """
        setup = self.setup
        if self.device != setup.backend.name or setup.settings["compute_batch"] != "auto":
            return None, None
        return self.batch_size, self.n_threads if setup.settings["n_threads"] is None else None


def write_resume(folder: Path, run: Reconstruction, version: str, history: HistoryFile) -> None:
    """Write the state after an epoch.

    Every random generator is derived from (seed, epoch), so these two are the random state. The records of the epochs
    are appended to history.jsonl first, so that the file does not grow with them.
    """
    state = run.state
    history_bytes = history.write(state.records)
    # a temporary file that replaces the old one when it is complete
    with atomic(folder / RESUME_FILE) as temporary, h5py.File(temporary, "w") as file:
        file.attrs.update(
            format=FORMAT,
            pypty_version=version,
            numpy_version=np.__version__,
            epoch=state.epoch,
            rejected=state.rejected,
            elapsed_s=state.elapsed_s,
            seed=run.settings["seed"],
            batch_size=run.objective.batch_size,
            n_threads=run.objective.n_threads,
            precision=run.setup.backend.precision,
            device=run.setup.backend.name,
            history_bytes=history_bytes,
            data=run.data_fingerprint,
            frozen=json.dumps(state.frozen),
            monitor=json.dumps(dataclasses.asdict(state.monitor)),
        )
        if run.setup.backend.fft_library == "fftw":
            file["fftw_wisdom"] = json.dumps(export_wisdom())
        _write_scan(file, run)
        _write_vector(file.create_group("variables"), BlockVector(state.variables.blocks(BLOCKS)))
        if state.signature is not None:
            group = file.create_group("signature")
            group.attrs.update(
                blocks=json.dumps(state.signature.blocks),
                weight=state.signature.weight,
                model=state.signature.model,
                form=state.signature.form,
                regularizers=state.signature.regularizers,
            )
            group["indices"] = np.frombuffer(state.signature.indices, dtype=np.int64)
        if state.sample is not None:
            group = file.create_group("sample")
            group.attrs.update(
                value=state.sample.value,
                sse=state.sample.info.sse,
                free=dataclasses.astuple(state.sample.info.free),
                terms=json.dumps(state.sample.info.terms),
                loss_terms=json.dumps(state.sample.info.loss_terms),
            )
            group["parts"] = state.sample.info.parts
            _write_vector(group.create_group("gradient"), state.sample.gradient)
        pairs = file.create_group("pairs")
        # zero-padded, so that sorted names are in the order of the pairs
        for index, pair in enumerate(state.optimizer.pairs):
            group = pairs.create_group(f"{index:05d}")
            _write_vector(group.create_group("s"), pair.s)
            _write_vector(group.create_group("y"), pair.y)
        _write_progress(file.create_group("progress"), state.progress)
        if state.snapshot is not None:
            group = file.create_group("snapshot")
            for name, array in state.snapshot.items():
                group[name] = to_host(array)


def read_resume(folder: Path, setup: Setup) -> Resumed:
    """Read the state back onto the device of ``setup``, in the precision of the state; a loss that has changed without
    being named is among the warnings of the settings.

    Raises
    ------
    CheckpointError
        The file is damaged, or belongs to other data, another precision or other shapes.
    ResourceError
        It is in double precision, for which the memory is too small.
    """
    path, changed = folder / RESUME_FILE, change_of_loss(folder, setup.settings)
    if changed:
        noted = setup.settings.with_notes((*setup.settings.notes, changed))
        setup = dataclasses.replace(setup, settings=noted)
    try:
        with open_hdf5(path) as file:
            check_tree(file)
            _check_origin(file, path, setup)
            setup = _with_precision_of(file, path, setup)
            if "fftw_wisdom" in file and setup.backend.fft_library == "fftw":
                import_wisdom(json.loads(file["fftw_wisdom"].asstr()[()]))
            return _read(file, path, setup)
    except (CheckpointError, ResourceError):
        raise
    except Exception as error:  # h5py raises many kinds on damaged trees, JSON of any content may be in one
        raise CheckpointError(
            f"{str(path)!r} cannot be read: {error}; start again from co.npy, cp.npy, cg.npy with "
            "pypty.load_checkpoint(folder)"
        ) from error


def _check_origin(file: Any, path: Path, setup: Setup) -> None:
    if int(file.attrs["format"]) not in _READ:
        raise CheckpointError(
            f"{str(path)!r} has format {file.attrs['format']}; this version reads {_READ[0]} to {_READ[-1]}"
        )
    if file.attrs["data"] != data_fingerprint(setup):
        raise CheckpointError(
            f"{str(path)!r} belongs to other data than the ones given now (other shape, type or "
            "values); to continue with new data use pypty.load_checkpoint(folder)"
        )


def _with_precision_of(file: Any, path: Path, setup: Setup) -> Setup:
    """The setup in the precision of the state, which "auto" may have changed."""
    precision, asked = str(file.attrs["precision"]), setup.settings["default_dtype"]
    if precision not in PRECISIONS:
        raise ValueError(f"its precision is {precision[:80]!r}")
    if asked not in (AUTO, precision):
        raise CheckpointError(
            f"{str(path)!r} was computed in {precision} precision, but default_dtype is {asked!r}; use the same or "
            f"{AUTO!r}, or start from pypty.load_checkpoint(folder)"
        )
    return in_precision(setup, precision)


def _read(file: Any, path: Path, setup: Setup) -> Resumed:
    backend = setup.backend
    blocks = _read_vector(file["variables"], backend)
    variables = Variables(**{name: blocks[name] for name in BLOCKS if name in blocks})
    scan = _read_scan(file, path, setup)
    _check_shapes(variables, path, setup, scan or setup.scan)
    state = State(
        variables=variables,
        epoch=int(file.attrs["epoch"]),
        rejected=int(file.attrs["rejected"]),
        frozen={name: int(until) for name, until in json.loads(file.attrs["frozen"]).items()},
        monitor=BlockMonitor(**json.loads(file.attrs["monitor"])),
        scan=scan,
        elapsed_s=float(file.attrs["elapsed_s"]),
    )
    if "signature" in file:
        state.signature = _read_signature(file["signature"])
    if "sample" in file and file.attrs["device"] == backend.name:
        group = file["sample"]
        # gradients are in the vector below, as after an evaluation
        info = Evaluated(
            loss=float(group.attrs["value"]),
            sse=float(group.attrs["sse"]),
            free=FreeSums(*map(float, group.attrs.get("free", (0.0, 0.0)))),
            gradients={},
            terms=json.loads(group.attrs["terms"]),
            parts=group["parts"][()],
            loss_terms=json.loads(group.attrs.get("loss_terms", "{}")),
            # trials are compared with it: with other batches, or on another device, it is evaluated again
            rounding=(int(file.attrs["batch_size"]), int(file.attrs["n_threads"])),
        )
        state.sample = ValueAndGradient(info.loss, _read_vector(group["gradient"], backend), info)
    state.optimizer = Lbfgs(
        [
            Pair(
                _read_vector(file["pairs"][key]["s"], backend), _read_vector(file["pairs"][key]["y"], backend)
            )
            for key in sorted(file["pairs"])
        ]
    )
    state.progress = _read_progress(file["progress"])
    if "snapshot" in file:
        state.snapshot = {name: backend.asarray(item[()]) for name, item in file["snapshot"].items()}
    history_bytes = int(file.attrs.get("history_bytes", 0))
    if "history" in file:
        state.records = [record_of(record) for record in json.loads(file["history"].asstr()[()])]
    else:
        state.records = read_history(path.parent, history_bytes)
    check_state(state, setup)
    return Resumed(
        state=state,
        setup=setup,
        batch_size=int(file.attrs["batch_size"]),
        n_threads=int(file.attrs["n_threads"]),
        device=str(file.attrs["device"]),
        history_bytes=history_bytes,
    )


def _read_signature(group: Any) -> Signature:
    return Signature(
        blocks=tuple(json.loads(group.attrs["blocks"])),
        indices=group["indices"][()].tobytes(),
        weight=float(group.attrs["weight"]),
        model=str(group.attrs["model"]),
        form=str(group.attrs["form"]),
        regularizers=str(group.attrs["regularizers"]),
    )


def _write_progress(group: Any, progress: Progress) -> None:
    """Write the state of a first-order method; its moments keep every bit."""
    group.attrs.update(
        name=progress.name,
        steps=progress.steps,
        epochs=progress.epochs,
        probe_scale=progress.probe_scale,
        schedule=json.dumps(progress.schedule),
    )
    for part, moments in progress.moments.items():
        subgroup = group.create_group(part)
        for name, value in moments.items():
            subgroup[name] = np.asarray(to_host(value))


def _read_progress(group: Any) -> Progress:
    """Moments stay on the host; the method moves all but the counters to its device."""
    moments = {
        part: {name: np.asarray(item[()]) for name, item in subgroup.items()}
        for part, subgroup in group.items()
    }
    return Progress(
        name=str(group.attrs["name"]),
        moments=moments,
        steps=int(group.attrs["steps"]),
        epochs=int(group.attrs["epochs"]),
        schedule=json.loads(group.attrs["schedule"]),
        probe_scale=float(group.attrs["probe_scale"]),
    )


def _write_scan(file: Any, run: Reconstruction) -> None:
    """The crop origins at the start, and the present ones if they were moved."""
    file["corners"] = run.start_crop_origins
    scan = run.state.scan
    if scan is not None:
        group = file.create_group("scan")
        group["positions"], group["corners"], group["moved"] = scan.positions, scan.crop_origins, scan.moved
        group["object_shape"] = scan.object_shape


def _read_scan(file: Any, path: Path, setup: Setup) -> Scan | None:
    if not np.array_equal(file["corners"][()], setup.scan.crop_origins):
        raise CheckpointError(
            f"{str(path)!r}: the positions lead to other crop origins than in the run to continue; leave "
            "them unchanged, or start from pypty.load_checkpoint(folder)"
        )
    if "scan" not in file:
        return None
    group = file["scan"]
    ny, nx = (int(n) for n in group["object_shape"])
    return Scan(group["positions"][()], group["corners"][()], (ny, nx), group["moved"][()])


def _check_shapes(variables: Variables, path: Path, setup: Setup, scan: Scan) -> None:
    """The state must have the dimensions that the parameters ask for."""
    names = ("window y", "window x", "patterns", "slices", "slice distances")
    sizes = setup.plan.sizes
    # window y, window x, patterns, slices, slice distances
    expected = (
        *setup.grid.shape,
        len(scan.positions),
        sizes.slices,
        len(start_distances(setup.settings, sizes.slices)),
    )
    probe_axes = 3 if setup.settings["probe_marker"] is None else 4
    if variables.obj.ndim != 4 or variables.probe.ndim != probe_axes or variables.positions.ndim != 2:
        raise CheckpointError(
            f"{str(path)!r} does not fit: obj, probe and positions have {variables.obj.ndim}, "
            f"{variables.probe.ndim} and {variables.positions.ndim} axes, expected 4, {probe_axes} and 2"
        )
    actual = (
        *variables.probe.shape[-2:],
        variables.positions.shape[0],
        variables.obj.shape[1],
        len(variables.slice_distances),
    )
    wrong = [
        f"{name} {have} (now {want})"
        for name, have, want in zip(names, actual, expected, strict=True)
        if have != want
    ]
    if wrong:
        raise CheckpointError(
            f"{str(path)!r} has other dimensions than the parameters give now: {', '.join(wrong)}"
        )
    _check_blocks(variables, path, setup)
    ends = scan.crop_origins.max(axis=0) + np.array(setup.grid.shape)
    if (ends > np.array(variables.obj.shape[-2:])).any() and setup.settings["use_full_FOV"]:
        raise CheckpointError(
            f"{str(path)!r} has an object of {variables.obj.shape[-2:]} pixels, but the scan now needs "
            f"{tuple(int(end) for end in ends)}"
        )


def _check_blocks(variables: Variables, path: Path, setup: Setup) -> None:
    """The state must have the effects that the parameters ask for, in the same shapes."""
    # the start of a new run with these parameters has the shapes that are expected
    fresh = setup.variables()
    for name in BLOCKS:
        have, want = variables.block(name), fresh.block(name)
        shapes = tuple(None if array is None else array.shape for array in (have, want))
        # obj and positions were compared with the moved scan above
        if name not in ("obj", "positions") and shapes[0] != shapes[1]:
            raise CheckpointError(
                f"{str(path)!r} has {name} of shape {shapes[0]}, but the parameters now ask for {shapes[1]}"
            )


def _write_vector(group: Any, vector: BlockVector) -> None:
    for name, array in vector.items():
        group[name] = to_host(array)


def _read_vector(group: Any, backend: Backend) -> BlockVector:
    """Blocks in their canonical order: sums over blocks must round as they did."""
    return BlockVector({name: backend.asarray(group[name][()]) for name in BLOCKS if name in group})
