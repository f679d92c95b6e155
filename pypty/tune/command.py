"""The command ``pypty tune``."""

from __future__ import annotations

import argparse

from pypty.importers.command import load_parameters
from pypty.params.presets import read_changes
from pypty.tune.study import tune


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("file", help="YAML file with parameters and the key 'tune', or name of a preset")
    parser.add_argument("--trials", type=int, metavar="N", help="trials of this worker (tune.n_trials)")
    parser.add_argument(
        "--storage", metavar="URL", help="storage of the trials: sqlite:///FILE, journal:///FILE, a database"
    )
    parser.add_argument(
        "--worker",
        default="",
        metavar="NAME",
        help="name of this worker; unfinished trials of an earlier worker of this name are repeated",
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="replace a parameter")


def tune_command(options: argparse.Namespace) -> str:
    """Search; returns the table to print.

    Raises
    ------
    PyptyError
        As in :func:`pypty.tune.tune`.
    """
    params, notes = load_parameters(options.file, read_changes(options.set))
    table = tune(params, options.trials, options.storage, options.worker).table()
    return f"{notes}\n{table}" if notes else table
