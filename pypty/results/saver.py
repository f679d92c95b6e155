"""Results that a run writes every ``save_iters`` epochs: model file, images, figures."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pypty._version import __version__
from pypty.backend.array import to_host
from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.setup.assembly import Setup
from pypty.engine.setup.sequences import patterns_of_epoch
from pypty.model.blocks import to_public
from pypty.model.options import TILT_MODES
from pypty.model.stages.propagation import INSIDE
from pypty.optics.propagators import angular_spectrum_phase_rate, fresnel_phase_rate
from pypty.output.checkpoints import RESUME_FILE
from pypty.output.files import atomic, make_folder, write_text
from pypty.output.lock import LOCK_FILE
from pypty.output.settings_file import NAME, yaml_value
from pypty.params.checks.results import is_named
from pypty.params.settings import Settings
from pypty.results.folder_name import RunSizes, folder_name
from pypty.results.history import History
from pypty.results.images import Image, object_images, side_by_side, tiff_stem, write_tiff
from pypty.results.model_file import PROBE_SCALE, write_model
from pypty.results.snapshot import Snapshot

_log = logging.getLogger(__name__)
_NOT_DRAWN = (ArithmeticError, LookupError, MemoryError, RuntimeError, TypeError, ValueError)
_HOLDS_A_RESULT = (RESUME_FILE, "co.npy", "params.yaml", LOCK_FILE)
DUMPED = "params_dumped.yaml"
"""Copy of parameters of another program that were given without a file (PtyRAD's name)."""


class Saver:
    """Writes results of a reconstruction into its folder.

    Parameters
    ----------
    parent : the folder that the run continues, if it does
    """

    def __init__(self, run: Reconstruction, folder: Path, parent: Path | None = None) -> None:
        self.run = run
        self.folder = folder
        self.parent = parent
        self._saved_at: int | None = None  # before the first call
        wanted = bool(run.settings["save_iters"]) and run.state.epoch > run.settings.first_epoch
        start = run.setup.variables() if wanted else run.state.variables  # a resumed run is beyond its start
        self._start_probe = to_public("probe", start.probe)
        self._start_positions = to_public("positions", start.positions)

    def __call__(self, batches: Sequence[np.ndarray] = (), last: bool = False) -> None:
        """Write the results that are due after an epoch.

        Parameters
        ----------
        batches : indices of the patterns of each batch of that epoch; none for L-BFGS
        last : the run ends here, so it is due

        Raises
        ------
        OutputError
            A file cannot be written.
        """
        if self._saved_at is None:
            _copy_parameters(self.run.settings, make_folder(self.folder), keep=self.parent is not None)
            self._saved_at = -1
        every, done = self.run.settings["save_iters"], self.run.state.epoch
        due = every and done > 0 and (last or done % every == 0)
        if not due or done == self._saved_at or (last and not self.run.state.records):
            return
        snapshot = self.snapshot()
        make_folder(self.folder)
        wanted = self.run.settings["save_result"]
        if "model" in wanted:
            write_model(self.folder / snapshot.name("model", ".h5"), snapshot)
        self._write_images(snapshot, wanted)
        self._write_figures(snapshot, batches)
        self._saved_at = done

    def snapshot(self) -> Snapshot:
        """The reconstruction as it stands now."""
        run = self.run
        variables = run.state.variables
        now = run.settings.at(max(run.state.epoch - 1, run.settings.first_epoch))
        wanted = run.settings["save_result"]
        return Snapshot(
            epochs_done=run.state.epoch,
            arrays={name: to_public(name, variables.block(name)) for name in variables.present},
            start_positions=self._start_positions,
            start_probe=self._start_probe,
            history=History.of(run.state.records),
            settings=run.settings.record(),
            pixel_size_A=np.array(run.setup.grid.pixel_size_A),
            wavelength_A=run.setup.grid.wavelength,
            used=patterns_of_epoch(run.settings, now, run.feed.n_patterns)[0],
            provenance=provenance(run, self.parent),
            optimizer_state=optimizer_state(run) if "optim_state" in wanted else {},
            scheduler_state=scheduler_state(run) if "scheduler_state" in wanted else {},
        )

    def _write_images(self, snapshot: Snapshot, wanted: Sequence[str]) -> None:
        from pypty.plots.figures import scanned_area

        modes = self.run.settings["result_modes"]
        # Crop origins of the start: images keep their size while positions are refined.
        crop_origins = self.run.setup.scan.crop_origins
        crop_origins = crop_origins if len(crop_origins) == 1 else crop_origins[snapshot.used]
        area = scanned_area(snapshot.obj.shape, crop_origins, snapshot.probe.shape[:2])
        images: list[Image] = []
        for kind in ("obja", "objp"):
            if kind in wanted:
                whole = list(object_images(snapshot.obj, snapshot.mode_weights, modes["obj_dim"], kind))
                images += whole if "full" in modes["FOV"] else []
                images += [image.crop(area) for image in whole] if "crop" in modes["FOV"] else []
        waves = first_probe(self.run)
        if "probe" in wanted:
            # (y, x, modes[, subscans]) -> (n, y, x)
            every = snapshot.probe.reshape(*snapshot.probe.shape[:2], -1).transpose(2, 0, 1)
            images.append(side_by_side("probe_amp", every))
        if "probe_prop" in wanted:
            images.append(side_by_side("probe_prop_amp", through_vacuum(self.run, waves)))
        gap = float(np.mean(snapshot.arrays["slice_distances"]))
        for image in images:
            for bit in modes["bit"]:
                name = snapshot.name(tiff_stem(image, bit), ".tif")
                write_tiff(self.folder / name, image, bit, snapshot.pixel_size_A, gap)

    def _write_figures(self, snapshot: Snapshot, batches: Sequence[np.ndarray]) -> None:
        # matplotlib takes a second to import
        from pypty.results.figures import OF_THE_WHOLE_RUN, draw_figures

        for stem, draw in draw_figures(self.run, snapshot, batches):
            name = f"{stem}.png" if stem in OF_THE_WHOLE_RUN else snapshot.name(stem, ".png")
            try:
                figure = draw()
            except _NOT_DRAWN as error:  # a failed figure must not end a long run
                _log.warning("%s could not be drawn: %s", name, error, exc_info=True)
                continue
            with atomic(self.folder / name) as temporary:
                figure.savefig(temporary, format="png")


def result_folder(setup: Setup, now: datetime) -> Path | None:
    """The folder of the results: ``output_folder``, or a folder in it that is named after the settings.

    A resumed run keeps its folder. If a named folder contains a result already, a number is appended to the name.
    """
    settings = setup.settings
    if not settings["output_folder"]:
        return None
    path = Path(settings["output_folder"]).expanduser()
    if settings["resume"] is True or not is_named(settings):
        return path
    used, _ = patterns_of_epoch(settings, settings.first(), setup.n_patterns)
    planned = setup.plan.sizes
    sizes = RunSizes(
        patterns=len(used),
        detector=setup.window.pattern,
        probe_modes=planned.probe_modes,
        object_modes=planned.object_modes,
        slices=planned.slices,
        wavelength_A=setup.grid.wavelength,
    )
    name = folder_name(settings, sizes, now) or "run"
    named, count = path / name, 1
    if settings["resume"] and (named / RESUME_FILE).exists():
        return named
    while any((named / file).exists() for file in _HOLDS_A_RESULT):
        count += 1
        ending = f"_{count}"
        named = path / f"{name[: 255 - len(ending)]}{ending}"
    return named


def continues(settings: Settings, folder: Path) -> bool:
    """Whether a run goes on with the one in its folder; ``resume="auto"`` does where there is one."""
    return settings["resume"] is True or (settings["resume"] == "auto" and (folder / RESUME_FILE).exists())


def provenance(run: Reconstruction, parent: Path | None) -> dict[str, Any]:
    """Provenance of a result, in plain values."""
    settings = run.settings
    data = settings["data_path"]
    origins = {}
    for name in run.state.variables.present:
        value = settings.fixed.get(name)
        if isinstance(value, np.ndarray) and name in settings.set_by_user:
            origins[name] = f"given: array {value.shape}"
        elif value is not None and name in settings.set_by_user:
            origins[name] = f"given: {value}"
        else:
            origins[name] = "computed"
    return {
        "pypty_version": __version__,
        "numpy_version": np.__version__,
        "device": run.setup.backend.name,
        "written": datetime.now().astimezone().isoformat(timespec="seconds"),
        "elapsed_s": round(float(run.state.elapsed_s), 3),
        "data": str(Path(data).expanduser().resolve())
        if settings["dataset"] is None and data
        else "in memory",
        "data_fingerprint": run.data_fingerprint,
        "start": origins,
        "earlier_epochs": settings.first_epoch,
        "continues": None if parent is None else str(parent.resolve()),
    }


def optimizer_state(run: Reconstruction) -> dict[str, np.ndarray]:
    """The pairs (s_k, y_k) of L-BFGS, oldest first, and the moments of a first-order method, in the internal layout."""
    progress = run.state.progress
    scale = {f"{progress.name}/{PROBE_SCALE}": np.array(progress.probe_scale)} if progress.name else {}
    moments = scale | {
        f"{progress.name}/{part}/{name}": np.asarray(to_host(array))
        for part, block_moments in progress.moments.items()
        for name, array in block_moments.items()
    }
    return moments | {
        f"lbfgs/{number:05d}/{kind}/{name}": np.asarray(to_host(array))
        for number, pair in enumerate(run.state.optimizer.pairs)
        for kind, vector in (("s", pair.s), ("y", pair.y))
        for name, array in vector.items()
    }


def scheduler_state(run: Reconstruction) -> dict[str, np.ndarray]:
    """Steps and epochs of first-order methods, which schedules of learning rates count, and the state of plateau."""
    progress = run.state.progress
    counts = {"steps": progress.steps, "epochs": progress.epochs}
    return {name: np.array(value) for name, value in {**counts, **progress.schedule}.items()}


def first_probe(run: Reconstruction, index: int = 0) -> np.ndarray:
    """(modes, y, x) probe of pattern ``index``, centred."""
    probe = to_host(run.state.variables.probe)
    marker = run.settings["probe_marker"]
    return probe if marker is None else probe[int(marker[index])]


def through_vacuum(run: Reconstruction, waves: np.ndarray, index: int = 0) -> np.ndarray:
    """(slices, modes, y, x): the probe of pattern ``index`` at each slice, through vacuum.

    It moves as in the model: by the sub-pixel part of its position, by the propagator of the run (``propmethod``), and
    by the tilt inside the specimen.
    """
    variables, grid = run.state.variables, run.setup.grid
    distances = to_host(variables.slice_distances)
    n_gaps = variables.n_slices - 1
    gaps = np.full(n_gaps, distances[0]) if len(distances) == 1 else distances[:n_gaps]
    depths = np.concatenate([[0.0], np.cumsum(gaps)])  # (slices,) Å below the first slice
    now = run.settings.at(max(run.state.epoch - 1, run.settings.first_epoch))
    exact = now["propmethod"] == "angular_spectrum"
    rate = (angular_spectrum_phase_rate if exact else fresnel_phase_rate)(grid)
    if variables.tilts is not None and TILT_MODES[run.settings["tilt_mode"]][1]:
        tilt = _row(to_host(variables.tilts), index)[INSIDE]
        rate = rate - 2 * np.pi * (tilt[0] * grid.qy + tilt[1] * grid.qx)
    offset = _row(to_host(variables.positions), index) - _row(run.setup.scan.crop_origins, index)
    shift = np.exp(-2j * np.pi * (offset[0] * grid.fy + offset[1] * grid.fx))
    spectrum = np.fft.fft2(waves) * shift
    return np.stack([np.fft.ifft2(spectrum * np.exp(1j * depth * rate)) for depth in depths])


def _row(rows: np.ndarray, index: int) -> np.ndarray:
    """That of a pattern; a single row holds for all."""
    return np.asarray(rows[index if len(rows) > 1 else 0])


def _copy_parameters(settings: Settings, folder: Path, keep: bool) -> None:
    """Write ``copy_params`` and ``params_dumped``. A file that is gone ends no run: params.yaml has all settings.

    Parameters
    ----------
    keep : the run continues one in this folder, whose copies are not replaced
    """
    dumped = settings["params_dumped"]
    if dumped:
        write_text(folder / DUMPED, yaml.safe_dump(yaml_value(dumped), sort_keys=False, allow_unicode=True))
    if not settings["copy_params"]:
        return
    source = Path(settings["copy_params"]).expanduser()
    target = folder / _name_of_copy(source)
    if keep and target.is_file():
        return
    try:
        content = source.read_bytes()
    except OSError as error:
        _log.warning("copy_params: %r cannot be read: %s", str(source), error.strerror or error)
        return
    with atomic(target) as temporary:
        temporary.write_bytes(content)


def _name_of_copy(source: Path) -> str:
    """Its own name, unless a run writes a file of that name, or of that kind, into its folder."""
    plain = source.suffix.lower() in (".yaml", ".yml", ".toml", ".json")
    return source.name if plain and source.name not in (NAME, DUMPED) else f"copied_{source.name}"
