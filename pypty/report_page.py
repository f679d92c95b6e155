"""report.html: a reconstruction on one self-contained page."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from pypty._version import __version__
from pypty.assessment import folder_of
from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.record.finished import records_of, shifted_start
from pypty.engine.setup.prepare import prepare
from pypty.errors import PyptyError
from pypty.output.files import write_text
from pypty.plots.figures import Figure
from pypty.plots.html_page import cards, document, headline, paragraphs, parameters, preformatted, table
from pypty.plots.series import plot_convergence
from pypty.preflight import preflight as fly
from pypty.refits.compare import Comparison
from pypty.refits.positions import PositionTrial
from pypty.refits.reopen import Finished, at_the_end, at_the_start, changed
from pypty.refits.resolution import Resolution
from pypty.refits.uncertainty import Uncertainty
from pypty.results.figures import draw_fit
from pypty.results.history import History
from pypty.results.of_run import result_of
from pypty.results.result import Result
from pypty.results.verdict_file import read_verdict
from pypty.trust.measure import reopened
from pypty.trust.verdict import NOT_TESTED, Verdict, verdict_of

REPORT = "report.html"
_PACKAGES = ("numpy", "scipy", "h5py", "matplotlib", "pyfftw", "cupy")
_CAPTIONS: tuple[tuple[str, str], ...] = (
    (
        "overview",
        "Phase of the object in the scanned area, strongest probe mode, deviance or loss, scan positions.",
    ),
    (
        "fit",
        "Where the model does not describe the data: over the scan, on the detector, and the worst patterns.",
    ),
    ("convergence", "How the reconstruction has converged."),
)


def report(
    finished: Finished,
    path: str | Path | None = None,
    *,
    also: tuple[Uncertainty | Resolution | Comparison | PositionTrial, ...] = (),
    preflight: bool = True,
    **changes: Any,
) -> Path:
    """Write one page about a finished run: verdict, figures, residuals, decisions, pre-flight, settings, versions.

    Parameters
    ----------
    finished : a result, its output folder, or parameters whose arrays are the result
    path : of the page; None = report.html in the output folder, or here if there is none
    also : what :func:`pypty.uncertainty`, :func:`pypty.resolution`, :func:`pypty.compare` and
        :func:`pypty.position_trial` have given, to be shown, too
    preflight : check the data as :func:`pypty.preflight` does
    changes : parameters that replace those of the run, such as data_path

    Returns
    -------
    the path of the page

    Raises
    ------
    ParameterError
        The parameters or the data have problems.
    OutputError
        The page cannot be written.
    """
    run = reopened({**at_the_end(finished), **changes})
    try:
        result = _result(finished, run, changes)
        parts = [
            *_parts(result, run, also),
            _before(finished, changes) if preflight else "",
            *_settings(result),
        ]
    finally:
        run.setup.close()
    target = _target(path, result.folder)
    name = result.settings.get("sample_name")
    title = f"Reconstruction: {name}" if isinstance(name, str) and name else "Reconstruction"
    write_text(target, document(title, f"pypty {__version__}", parts))
    return target


def _target(path: str | Path | None, folder: Path | None) -> Path:
    if path is not None:
        return Path(path).expanduser()
    return Path(REPORT) if folder is None else folder / REPORT


def _result(finished: Finished, run: Reconstruction, changes: Mapping[str, Any]) -> Result:
    """The result itself, or one that has what is left of it in its folder."""
    if isinstance(finished, Result):
        given = finished
    else:
        given = result_of(run)
        folder = folder_of(finished)
        if folder is not None:
            given = _from_folder(given, folder, {**at_the_start(finished), **changes})
            kept = None if changes else read_verdict(folder)
            given = given if kept is None else dataclasses.replace(given, verdict=kept)
    tested = given.verdict.level != NOT_TESTED
    deviances = given.history.deviance.tolist()
    return given if tested else dataclasses.replace(given, verdict=verdict_of(run, deviances))


def _from_folder(result: Result, folder: Path, start: Mapping[str, Any]) -> Result:
    """A result with what the files in its folder tell of its way, from the parameters with which it began."""
    records = records_of(folder)
    warnings, settings, start_positions = list(result.warnings), result.settings, shifted_start(folder)
    try:
        setup = prepare(start, read_data=False)
    except PyptyError as error:
        warnings.append(f"how the run began is not known: {error}")
    else:
        settings = setup.settings.record()
        start_positions = setup.scan.positions if start_positions is None else start_positions
        setup.close()
    return dataclasses.replace(
        result,
        folder=folder,
        settings=settings,
        start_positions=result.start_positions if start_positions is None else start_positions,
        history=History.of(records),
        loss=np.array([record.loss for record in records]),
        epochs=np.array([record.epoch for record in records], dtype=int),
        warnings=(
            *warnings,
            *(f"epoch {record.epoch}: {text}" for record in records for text in record.warnings),
        ),
        decisions=(
            *result.decisions,
            *(f"epoch {record.epoch}: {text}" for record in records for text in record.decisions),
        ),
        stop_reason="",
    )


def _parts(
    result: Result,
    run: Reconstruction,
    also: tuple[Uncertainty | Resolution | Comparison | PositionTrial, ...],
) -> Iterator[str]:
    """What the result says, as HTML."""
    verdict = result.verdict
    yield headline(verdict.text, "untested" if verdict.level == NOT_TESTED else verdict.level)
    yield _numbers(verdict)
    yield paragraphs("Further tests", [str(item) for item in also])
    figures: dict[str, Figure] = {"overview": result.plot()}
    if verdict.fit is not None:
        figures["fit"] = draw_fit(run, verdict.fit)
    if len(result.history.epochs):
        figures["convergence"] = plot_convergence(result.history)
    shown = [(figures[name], caption) for name, caption in _CAPTIONS if name in figures]
    shown += [(item.plot(), item.text) for item in also if isinstance(item, (Uncertainty, Resolution))]
    yield cards(shown)
    ended = [f"it stopped: {result.stop_reason}"] if result.stop_reason else []
    yield paragraphs("Decisions", [*result.decisions, *ended])
    yield paragraphs("Warnings", result.warnings)


def _numbers(verdict: Verdict) -> str:
    fit = verdict.fit
    if fit is None:
        return ""
    rows = [("all pixels", f"{fit.ratio:.4f} ± {fit.ratio_error:.4f}", "")]
    rows += [
        (name, f"{region.ratio:.4f} ± {region.error:.4f}", f"{region.counts_ratio:.4f}")
        for name, region in fit.regions.items()
    ]
    rows.append(("a right model after fitting", fit.fitted_text, ""))
    rows.append(("patterns: 95th percentile over median", f"{fit.pattern_spread:.4f}", ""))
    return table(
        "Deviance in units of its expectation", ("pixels", "deviance", "counts measured / modelled"), rows
    )


def _before(finished: Finished, changes: Mapping[str, Any]) -> str:
    """The pre-flight of the run, or why there is none."""
    try:
        found = fly({**at_the_start(finished), **changes})
    except PyptyError as error:
        return paragraphs("Pre-flight", [f"not possible: {error}"])
    return f"<h2>Pre-flight</h2>{found._repr_html_()}"


def _settings(result: Result) -> Iterator[str]:
    """The settings that differ from the defaults, and versions."""
    yield parameters(changed(result), "Parameters that differ from the defaults")
    versions = [f"Python {platform.python_version()} on {platform.platform()}", f"pypty {__version__}"]
    for package in _PACKAGES:
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    yield preformatted("Versions", "\n".join(versions))
