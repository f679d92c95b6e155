"""The command ``pypty import``."""

from __future__ import annotations

import argparse
from pathlib import Path

import h5py

from pypty.params.presets import read_changes
from pypty.readers.importing import import_file, params_of

_NEEDED = (
    ("acc_voltage", "accelerating voltage, kV"),
    ("scan_size", "points of the scan, [slow, fast]"),
    ("scan_step_A", "distance between scan points, Å"),
    ("conv_semiangle_mrad", "convergence semi-angle, mrad"),
    ("rez_pixel_size_mrad", "pixel of the detector, mrad"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "file", help="file of a detector: .raw, .mat, .tif, .zarr, .npy, .h5, .dm4, .mib, .emd, ..."
    )
    parser.add_argument("-o", "--output", required=True, help="HDF5 file that is written (.h5)")
    parser.add_argument("--key", help="data set or variable, if the file contains several")
    parser.add_argument(
        "--scan-size",
        nargs=2,
        type=int,
        metavar=("SY", "SX"),
        help="points of the scan along the slow and fast axis",
    )
    parser.add_argument(
        "--axes",
        help="the file's axes in its own order, for example ky,kx,n or sx,sy,ky,kx (.mat: as MATLAB shows them)",
    )
    parser.add_argument("--swap-axes", action="store_true", help="transpose every pattern")
    parser.add_argument(
        "--crop",
        nargs=4,
        type=int,
        metavar=("KY0", "KY1", "KX0", "KX1"),
        help="part of the detector, in pixels",
    )
    parser.add_argument(
        "--bin", type=int, default=1, help="side of blocks of pixels to sum (default: %(default)s)"
    )
    parser.add_argument("--compression", choices=("lzf", "gzip"), help="default: none")
    parser.add_argument(
        "--patterns-per-chunk", type=int, help="patterns stored together (default: about 1 MiB)"
    )
    parser.add_argument("--empad-version", type=int, choices=(1, 2), help="of a .raw file")
    parser.add_argument("--dtype", choices=("float32", "uint32"), help="of an EMPAD-G2 .raw file")
    parser.add_argument("--metadata", help="JSON file of Nion Swift (default: the one of the same name)")
    parser.add_argument("--ignore-metadata", action="store_true", help="read only the patterns")
    parser.add_argument(
        "--trust-external-links",
        action="store_true",
        help="an HDF5 file may point to values outside of its folder",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="add or replace a parameter, acc_voltage=80",
    )


def import_command(options: argparse.Namespace) -> str:
    """Import a file; returns the report for the user.

    Raises
    ------
    PyptyError
        As in :func:`pypty.readers.import_file`.
    """
    written = import_file(
        options.file,
        options.output,
        key=options.key,
        scan_size=options.scan_size,
        axes=options.axes,
        swap_axes=options.swap_axes,
        crop=None if options.crop is None else tuple(options.crop),
        bin=options.bin,
        compression=options.compression,
        patterns_per_chunk=options.patterns_per_chunk,
        version=options.empad_version,
        dtype=options.dtype,
        metadata_file=options.metadata,
        ignore_metadata=options.ignore_metadata,
        trust_external_links=options.trust_external_links,
        overwrite=options.overwrite,
        params=read_changes(options.set),
    )
    return _report(written)


def _report(path: Path) -> str:
    params = params_of(path)
    with h5py.File(path, "r") as file:
        shape, dtype = file["data"].shape, file["data"].dtype
    lines = [
        f"{path}: {shape[0]} patterns of {shape[1]} x {shape[2]} pixels, {dtype}, {path.stat().st_size / 2**20:.1f} MiB"
    ]
    lines += [f"  {key}: {value}" for key, value in params.items() if key not in ("data_path", "data_key")]
    known = set(params) | ({"rez_pixel_size_mrad"} if "rez_pixel_size_A" in params else set())
    missing = [f"  {key} ({meaning})" for key, meaning in _NEEDED if key not in known]
    if missing:
        lines += ["Not in the file; give them with --set KEY=VALUE, or in the parameters:", *missing]
    return "\n".join(lines)
