"""Calibrations of simulated scans against the truth in their files.

    python benchmarks/calibration.py DATA_FOLDER [--figures FOLDER]

For each file: error of the pixel size, rotation and orientation; then with the patterns flipped, transposed
and turned in all eight ways, and turned by an odd angle; with a descan and with bad pixels and patterns put
in. Parameters are those of a notebook page: voltage, scan, semi-angle, and for the thick crystal the nominal
defocus. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image
from scipy.ndimage import affine_transform, shift

from pypty import calibrate

FILES = ("mos2_1e5", "mos2_1e6", "mos2_posnoise_1e6", "sto_thick_1e6", "sto_thick_1e7")
ODD_DEG = 33.0
DESCAN_PX = (1.5, -1.1)


def read(path: Path) -> tuple[dict[str, Any], dict[str, Any], np.ndarray]:
    """Parameters, attributes and patterns of a file."""
    with h5py.File(path, "r") as file:
        a, data = dict(file.attrs), file["data"][()]
    params = {
        "dataset": data,
        "acc_voltage": float(a["voltage_kV"]),
        "scan_size": a["scan_shape"].tolist(),
        "scan_step_A": float(a["scan_step_A"]),
        "conv_semiangle_mrad": float(a["semiangle_mrad"]),
    }
    return params, a, data


def true_angle_deg(a: dict[str, Any]) -> float:
    """PLRotation_deg nearest to the scan matrix (polar decomposition); for a distorted scan there is no
    other single angle.
    """
    left, _, right = np.linalg.svd(np.asarray(a["scan_matrix_yx"]))
    turn = left @ right
    return float(np.degrees(np.arctan2(turn[0, 1], turn[0, 0])))


def transformed(data: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Patterns whose zero frequency stays at n//2 and whose k became matrix @ k (one of the eight)."""
    n = data.shape[-1]
    y, x = np.indices((n, n)) - n // 2
    source = np.einsum("ij,jyx->iyx", np.linalg.inv(matrix).round().astype(int), np.stack([y, x])) + n // 2
    inside = ((source >= 0) & (source < n)).all(axis=0)
    source = np.clip(source, 0, n - 1)
    return data[:, source[0], source[1]] * inside.astype(data.dtype)


def eight() -> list[np.ndarray]:
    quarter = np.array([[0, 1], [-1, 0]])
    return [np.linalg.matrix_power(quarter, k) @ np.diag([f, 1]) for f in (1, -1) for k in range(4)]


def expected(matrix: np.ndarray, angle_deg: float) -> tuple[bool, float]:
    """(flip_ky, PLRotation_deg) of patterns turned by the matrix."""
    flip = bool(np.linalg.det(matrix) < 0)
    a = np.deg2rad(angle_deg)
    rotation = np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])
    whole = np.diag([-1 if flip else 1, 1]) @ matrix @ rotation
    return flip, float(np.degrees(np.arctan2(whole[0, 1], whole[0, 0])))


def off_deg(found: float, truth: float) -> float:
    return float((found - truth + 180) % 360 - 180)


def turned(data: np.ndarray, angle_deg: float) -> np.ndarray:
    """Patterns turned by interpolation: k became R(angle) k."""
    n, a = data.shape[-1], np.deg2rad(angle_deg)
    back = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    centre = np.full(2, n // 2)
    return np.stack([affine_transform(p.astype(float), back, centre - back @ centre, order=1) for p in data])


def rows_of(path: Path, figures: Path | None) -> list[tuple[str, str, str, str]]:
    """(data, quantity, truth, found)."""
    params, a, data = read(path)
    rows = []
    whole = calibrate.everything(params)
    v = whole.values
    true_mrad = float(a["angular_sampling_mrad"])
    error = 100 * (v["disk.pixel_mrad"] / true_mrad - 1)
    rows.append(("pixel / mrad", f"{true_mrad:.4f}", f"{v['disk.pixel_mrad']:.4f} ({error:+.3f} %)"))
    angle = true_angle_deg(a)
    rows.append(
        (
            "PLRotation_deg, flip_ky",
            f"{angle:.2f}, False",
            f"{v['orientation.rotation_deg']:.2f}, {v['orientation.flip_ky']}",
        )
    )
    rows[-1] = (*rows[-1][:2], f"{whole.params['PLRotation_deg']:.2f}, {v['orientation.flip_ky']}")
    by = "multislice" if "specimen.margin" in v else v["orientation.half_turn_by"]
    rows.append(("half a turn decided by", "–", by))
    entrance, thickness = float(a["C10_A"]), float(a["thickness_A"])
    if "specimen.margin" in v:
        rows += thick_rows(v, entrance, thickness)
    elif "defocus.C10_A" in v:
        rows.append(("C10 / Å", f"{entrance:.0f} at the entrance", f"{v['defocus.C10_A']:.1f}"))
    rows.append(("descan / px", "0", f"{v['descan.drift_px']:.2f}"))
    rows.append(
        (
            "bad pixels, patterns",
            "0, 0",
            "0, 0" if not len(v["defects.hot"]) + len(v["defects.dead"]) else "some",
        )
    )
    right, errors = 0, []
    for matrix in eight():
        flip, truth = expected(matrix, angle)
        given = {**params, "dataset": transformed(data, matrix), "rez_pixel_size_mrad": true_mrad}
        found = calibrate.orientation(given)
        if found.values["outside_disk"] > calibrate.THICK:
            given["total_thickness"] = float(a["thickness_A"])
            found = found.merge(calibrate.specimen(found.apply(given)))
        errors.append(abs(off_deg(found.params["PLRotation_deg"], truth)))
        right += found.params["flip_ky"] == flip and errors[-1] < 45
    rows.append(("eight flips and transposes", "8 right", f"{right} right, largest error {max(errors):.2f}°"))
    found = calibrate.orientation(
        {**params, "dataset": turned(data, ODD_DEG), "rez_pixel_size_mrad": true_mrad}
    )
    odd = found.params["PLRotation_deg"]
    if found.values["outside_disk"] > calibrate.THICK and abs(off_deg(odd, angle + ODD_DEG)) > 90:
        odd = off_deg(odd, 180.0)  # half a turn is the specimen's
    rows.append((f"patterns turned by {ODD_DEG:g}°", f"{angle + ODD_DEG:.2f}", f"{odd:.2f}"))
    error_px, descan = descan_error(params, data, true_mrad)
    rows.append(("descan put in, largest error / px", "0", f"{error_px:.3f}"))
    missed, false, defects = defect_errors(params, data)
    rows.append(("bad pixels put in: missed, false", "0, 0", f"{missed}, {false}"))
    if figures is not None:
        save_figures(path.stem, figures, everything=whole, disk=calibrate.disk(params), descan=descan, defects=defects,
                     orientation=calibrate.orientation({**params, "rez_pixel_size_mrad": true_mrad}))  # fmt: skip
    return [(path.stem, *row) for row in rows]


def thick_rows(v: Mapping[str, Any], entrance_A: float, thickness_A: float) -> list[tuple[str, str, str]]:
    """What multislice fits found of a thick specimen, beside the weak-phase fit."""
    middle, found = entrance_A + thickness_A / 2, v["specimen.C10_middle_A"]
    rows = [
        ("C10 / Å, entrance", f"{entrance_A:.0f}", f"{v['specimen.C10_entrance_A']:.1f}"),
        ("C10 / Å, middle", f"{middle:.0f}", f"{found:.1f} ({100 * (found / middle - 1):+.1f} %)"),
        ("size of C10 / Å, weak-phase fit", f"{middle:.0f}", f"{abs(v['defocus.C10_A']):.1f}"),
        ("thickness / Å", f"{thickness_A:.0f}", f"{v['specimen.thickness_A']:.0f}"),
        ("misfit of the other half turn, times", "–", f"{v['specimen.margin']:.2f}"),
    ]
    return rows


def descan_error(
    params: dict[str, Any], data: np.ndarray, pixel_mrad: float
) -> tuple[float, calibrate.Suggestion]:
    """Largest error (px) of the tilts for patterns that wander by some pixels, linearly and a little
    quadratically.
    """
    sy, sx = params["scan_size"]
    u, v = (g.ravel() for g in np.meshgrid(np.linspace(-1, 1, sy), np.linspace(-1, 1, sx), indexing="ij"))
    moved = np.stack([DESCAN_PX[0] * u + 0.4 * v * v, DESCAN_PX[1] * v - 0.3 * u], axis=1)
    wandering = np.stack([shift(p.astype(float), m, order=1) for p, m in zip(data, moved, strict=True)])
    found = calibrate.descan(
        {**params, "dataset": np.maximum(wandering, 0), "rez_pixel_size_mrad": pixel_mrad}
    )
    tilts = found.params["tilts"][:, 4:] / (1e-3 * pixel_mrad) - found.params.get(
        "data_shift_vector", np.zeros(2)
    )
    return float(np.abs(tilts - moved).max()), found


def defect_errors(
    params: dict[str, Any], data: np.ndarray, n_pixels: int = 20
) -> tuple[int, int, calibrate.Suggestion]:
    """(missed, false) of hot, dead and stuck pixels among those that count 40 or more in all."""
    missed = false = 0
    ny, nx = data.shape[1:]
    for seed in range(5):
        rng, bad = np.random.default_rng(seed), data.copy()
        pixels = [tuple(divmod(int(i), nx)) for i in rng.permutation(ny * nx)]
        pixels = [p for p in pixels if data[:, p[0], p[1]].sum(dtype=float) >= 40][:n_pixels]
        bright = int(2 * data.mean(axis=0).max())
        for number, (y, x) in enumerate(pixels):
            hot = np.minimum(data[:, y, x] + rng.poisson(bright, len(data)), 65535)
            stuck = max(1, round(float(data[:, y, x].mean())))
            bad[:, y, x] = (hot, 0, 65535, stuck)[number % 4]
        suggestion = calibrate.defects({**params, "dataset": bad})
        mask = suggestion.params["detector_mask"]
        found = {tuple(int(i) for i in p) for p in np.argwhere(mask == 0)}
        missed += len(set(pixels) - found)
        false += len(found - set(pixels))
    return missed, false, suggestion


def save_figures(name: str, folder: Path, **suggestions: calibrate.Suggestion) -> None:
    """The pictures of docs/calibration.md, as small files."""
    folder.mkdir(parents=True, exist_ok=True)
    for label, suggestion in suggestions.items():
        if suggestion.figure is not None:
            stream, large = io.BytesIO(), label == "everything"
            suggestion.figure.savefig(stream, dpi=62 if large else 75)
            picture = Image.open(stream).convert("RGB")
            if large:
                picture = picture.quantize(200, dither=Image.Dither.NONE)
            picture.save(folder / f"calibrate_{label}_{name}.png", optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--figures", type=Path, default=None)
    parser.add_argument("--files", nargs="*", default=FILES)
    arguments = parser.parse_args()
    print("| data | quantity | truth | measured |\n|---|---|---|---|")
    for name in arguments.files:
        for row in rows_of(arguments.folder / f"{name}.h5", arguments.figures):
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
