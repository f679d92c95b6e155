"""pypty uncertainty | resolution | compare: what other fits of the same measurement tell."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pypty.refits.words import AUTO, MODEL, SCAN, THINNING

if TYPE_CHECKING:
    from pypty.refits.resolution import Resolution
    from pypty.refits.uncertainty import Uncertainty


def add_uncertainty(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``pypty uncertainty``."""
    _add_file(parser, "output folder of a run")
    parser.add_argument(
        "--repeats", type=int, default=6, help="fits to drawn counts; 0 = a preview (default: %(default)s)"
    )
    parser.add_argument("--epochs", type=int, default=5, help="epochs of each fit (default: %(default)s)")
    parser.add_argument(
        "--lowpass",
        type=float,
        default=0.2,
        metavar="A",
        help="resolution of the phase, Å (default: %(default)s)",
    )
    parser.add_argument(
        "--method",
        choices=(MODEL, THINNING),
        default=MODEL,
        help="where the counts come from (default: %(default)s)",
    )


def add_resolution(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``pypty resolution``."""
    _add_file(parser, "parameter file, or output folder of a run")
    parser.add_argument(
        "--halves",
        choices=(AUTO, THINNING, SCAN),
        default=AUTO,
        help="how the data are divided (default: %(default)s)",
    )


def add_compare(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``pypty compare``."""
    parser.add_argument(
        "folders", nargs="+", metavar="FOLDER", help="output folders of runs with free_pixels"
    )


def _add_file(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("file", help=text)
    parser.add_argument("--seed", type=int, default=0, help="seed of all draws (default: %(default)s)")
    parser.add_argument("--figure", metavar="FILE.png", help="also draw it")


def uncertainty_command(options: argparse.Namespace) -> str:
    """Error bars of the result in a folder."""
    from pypty.refits.uncertainty import uncertainty

    found = uncertainty(
        options.file,
        repeats=options.repeats,
        epochs=options.epochs,
        lowpass_A=options.lowpass,
        method=options.method,
        seed=options.seed,
    )
    return _told(found, options.figure)


def resolution_command(options: argparse.Namespace) -> str:
    """Resolution from two halves of the data."""
    from pypty.refits.resolution import resolution

    return _told(resolution(options.file, halves=options.halves, seed=options.seed), options.figure)


def compare_command(options: argparse.Namespace) -> str:
    """Which of several results describes counts better that were not fitted."""
    from pypty.refits.compare import compare

    return compare(options.folders).text


def _told(found: Uncertainty | Resolution, path: str | None) -> str:
    """The numbers, and the figure if it is wanted."""
    if not path:
        return found.text
    target = Path(path).expanduser()
    found.plot().savefig(target)
    return f"{found.text}\nFigure: {target}"
