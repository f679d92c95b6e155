"""py4DSTEM, one pass at a time: run by its own interpreter, told what to do on standard input (see peers/__init__.py).

pip install py4DSTEM "numpy<2"
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
import time
from typing import Any

import h5py
import matplotlib
import numpy as np

matplotlib.use("Agg")


def solver(options: argparse.Namespace) -> Any:
    """Gradient descent in mini-batches, without any filter."""
    import py4DSTEM
    from py4DSTEM.process import phase

    with h5py.File(options.data) as file:
        a, patterns = dict(file.attrs), file["data"][()].astype(np.float32)
    n, shape = patterns.shape[1], tuple(int(v) for v in a["scan_shape"])
    cube = py4DSTEM.DataCube(patterns.reshape(*shape, n, n))
    for axis, value, unit in (("R", a["scan_step_A"], "A"), ("Q", 1 / (n * a["pixel_size_A"]), "A^-1")):
        getattr(cube.calibration, f"set_{axis}_pixel_size")(float(value))
        getattr(cube.calibration, f"set_{axis}_pixel_units")(unit)
    kind = (
        f"{'Mixedstate' if options.modes > 1 else ''}{'Multislice' if options.slices > 1 else ''}"
        or "Singleslice"
    )
    given = {"num_probes": options.modes} if options.modes > 1 else {}
    if options.slices > 1:
        given |= {"num_slices": options.slices, "slice_thicknesses": options.thickness}
    found = getattr(phase, f"{kind}Ptychography")(
        datacube=cube, energy=1e3 * float(a["voltage_kV"]), semiangle_cutoff=float(a["semiangle_mrad"]),
        polar_parameters={"C10": float(a["C10_A"])}, object_type="complex", verbose=False, device="cpu", **given,
    )  # fmt: skip
    found.preprocess(
        plot_center_of_mass=False, plot_rotation=False, plot_probe_overlaps=False, force_com_rotation=0.0,
        force_com_transpose=False, force_com_shifts=(n // 2, n // 2),
    )  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    for name, kind, default in (
        ("modes", int, 1), ("slices", int, 1), ("thickness", float, 2.0), ("batch", int, 32), ("step", float, 0.5),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=kind, default=default)
    options = parser.parse_args()
    out, sys.stdout = sys.stdout, sys.stderr

    def answer(what: dict[str, Any]) -> None:
        out.write(json.dumps(what) + "\n")
        out.flush()

    import py4DSTEM

    found = solver(options)
    wanted = {
        "num_iter": 1, "reconstruction_method": "gradient-descent", "max_batch_size": options.batch,
        "step_size": options.step, "normalization_min": 1.0, "gaussian_filter": False, "butterworth_filter": False,
        "tv_denoise": False, "kz_regularization_filter": False, "progress_bar": False, "seed_random": 0,
        "fix_probe_com": False,
    }  # fmt: skip
    known = inspect.signature(found.reconstruct).parameters
    wanted = {name: value for name, value in wanted.items() if name in known}
    answer({"version": f"py4DSTEM {py4DSTEM.__version__}, numpy {np.__version__}"})
    first = True
    for line in sys.stdin:
        if line.strip() in ("", "stop"):
            return
        started = time.perf_counter()
        found.reconstruct(reset=first, **wanted)
        seconds, first = time.perf_counter() - started, False
        if line.strip() != "pass":
            positions, obj = np.asarray(found._positions_px), np.asarray(found._object)
            phase = np.angle(obj if obj.ndim == 3 else obj[None]).astype(np.float32)
            np.savez(line.strip(), phase=phase, centre_px=(positions.max(0) + positions.min(0)) / 2)
        answer({"s": seconds})


if __name__ == "__main__":
    main()
