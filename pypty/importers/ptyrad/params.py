"""The door: parameter files of PtyRAD as parameters of ours."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pypty.errors import ParameterError
from pypty.importers.ptyrad.file import complete, is_ptyrad_content, read_file
from pypty.importers.ptyrad.init import translate_init
from pypty.importers.ptyrad.losses import translate_constraints, translate_losses, without_one_mode
from pypty.importers.ptyrad.model import translate_model
from pypty.importers.ptyrad.recon import translate_recon
from pypty.importers.ptyrad.translation import Ledger, Translation
from pypty.importers.ptyrad.tune import translate_tune, tuned_names

_log = logging.getLogger(__name__)


def translate(
    content: Mapping[str, Any], source: str = "the parameters", folder: str | Path | None = None
) -> Translation:
    """The six groups of PtyRAD in our parameters; the patterns are read once.

    Parameters
    ----------
    content : init_params, and whatever else of hypertune_params, model_params, loss_params, constraint_params and
        recon_params there is; PtyRAD's defaults stand for the rest. Nothing of it is changed
    source : its name, for messages
    folder : where paths are looked for that are not in the current folder

    Returns
    -------
    Translation; its ``params`` are ready for :func:`pypty.run`

    Raises
    ------
    ParameterError
        A key is not known (near matches are named) or a value cannot be used.
    DataError
        The patterns, or a result to start from, cannot be read.
    """
    completed = complete(content, source)
    ledger = Ledger(source, completed.given)
    groups = completed.groups
    tuned = tuned_names(groups["hypertune_params"], source)
    start = translate_init(
        groups["init_params"], Path.cwd() if folder is None else Path(folder), tuned, ledger
    )
    translate_model(groups["model_params"], start.window, start.n_slices, ledger)
    translate_losses(groups["loss_params"], ledger)
    without_one_mode(ledger.params, start.n_object_modes, ledger)
    translate_constraints(groups["constraint_params"], ledger)
    translate_recon(groups["recon_params"], start.scan_size, ledger)
    translate_tune(groups["hypertune_params"], 1 / start.window, ledger)
    return ledger.close(completed.notes)


def translate_file(path: str | Path) -> Translation:
    """:func:`translate` of a .yml, .yaml, .toml or .json file.

    Raises
    ------
    ParameterError
        It cannot be read, is a Python module, or is no parameter file of PtyRAD.
    """
    content = read_file(path)
    if not is_ptyrad_content(content):
        raise ParameterError(
            f"{str(path)!r} is no parameter file of PtyRAD: it has no init_params; of a file of ours, "
            "pypty.load_preset gives the parameters"
        )
    return translate(content, str(path), Path(path).expanduser().resolve().parent)


def load_params(path: str | Path) -> dict[str, Any]:
    """PyPty parameters from a parameter file of PtyRAD, for :func:`pypty.run`; differences are logged.

    Raises
    ------
    ParameterError, DataError
        As :func:`translate`.
    """
    translation = translate_file(path)
    for text in translation.notes:
        _log.warning("%s: %s", path, text)
    for text in translation.without_counterpart:
        _log.warning("%s: without counterpart: %s", path, text)
    return translation.params
