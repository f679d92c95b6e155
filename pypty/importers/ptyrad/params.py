"""Translate parameter files of PtyRAD: the functions that other modules and users call."""

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
from pypty.importers.ptyrad.names import spell_folder_name
from pypty.importers.ptyrad.recon import keep_file, translate_recon
from pypty.importers.ptyrad.translation import Ledger, Translation
from pypty.importers.ptyrad.tune import translate_tune, tuned_names

_log = logging.getLogger(__name__)


def translate(
    content: Mapping[str, Any],
    source: str = "the parameters",
    folder: str | Path | None = None,
    file: str | Path | None = None,
) -> Translation:
    """Translate the six groups of PtyRAD into PyPty parameters; the patterns are read once.

    Parameters
    ----------
    content : init_params, and any of hypertune_params, model_params, loss_params, constraint_params and recon_params;
        PtyRAD's defaults complete them. It is not modified
    source : its name, for messages
    folder : second folder, after the current one, in which relative paths are searched
    file : the file of the content, of which ``copy_params`` writes a copy

    Returns
    -------
    Translation; its ``params`` are ready for :func:`pypty.run`

    Raises
    ------
    ParameterError
        A key is unknown (the message suggests similar ones), or a value cannot be used.
    DataError
        The patterns, or a result to start from, cannot be read.
    """
    completed = complete(content, source)
    ledger = Ledger(source, completed.set_by_user)
    groups = completed.groups
    tuned = tuned_names(groups["hypertune_params"], source)
    folder = Path.cwd() if folder is None else Path(folder)
    goes_on = groups["model_params"]["optimizer_params"]["load_state"] is not None
    start = translate_init(groups["init_params"], folder, tuned, ledger, keep_phases=goes_on)
    translate_model(groups["model_params"], start.window, start.n_slices, ledger, folder)
    translate_losses(groups["loss_params"], ledger)
    without_one_mode(ledger.params, start.n_object_modes, ledger)
    translate_constraints(groups["constraint_params"], ledger)
    translate_recon(groups["recon_params"], start.scan_size, ledger)
    keep_file(
        groups["recon_params"]["copy_params"],
        content,
        None if file is None else Path(file).expanduser(),
        ledger,
    )
    translate_tune(groups["hypertune_params"], 1 / start.window, ledger)
    spell_folder_name(groups, start.shown, ledger)
    return ledger.close(completed.notes)


def translate_file(path: str | Path) -> Translation:
    """:func:`translate` of a .yml, .yaml, .toml or .json file.

    Raises
    ------
    ParameterError
        The file cannot be read, is a Python module, or is not a parameter file of PtyRAD.
    """
    content = read_file(path)
    if not is_ptyrad_content(content):
        raise ParameterError(
            f"{str(path)!r} is not a parameter file of PtyRAD: it has no init_params; pypty.load_preset reads files "
            "of PyPty"
        )
    return translate(content, str(path), Path(path).expanduser().resolve().parent, path)


def load_params(path: str | Path) -> dict[str, Any]:
    """PyPty parameters from a parameter file of PtyRAD, for :func:`pypty.run`; differences are logged.

    Raises
    ------
    ParameterError, DataError
        As in :func:`translate`.
    """
    translation = translate_file(path)
    for text in translation.notes:
        _log.warning("%s: %s", path, text)
    for text in translation.without_counterpart:
        _log.warning("%s: without counterpart: %s", path, text)
    return translation.params
