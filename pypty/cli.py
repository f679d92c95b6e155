"""The command line; ``pypty --help`` lists the commands."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from pypty._version import __version__
from pypty.errors import ParameterError, PyptyError
from pypty.output.terminal import Terminal


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0 success, 1 a reported error, 2 wrong usage; 130, 143 and 129 a run that
    SIGINT (Ctrl-C), SIGTERM or SIGHUP ended, with everything saved (docs/cluster.md)."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options))
    except PyptyError as error:
        Terminal(sys.stderr).write(f"pypty: {error}\n")
        return 1
    except KeyboardInterrupt as error:  # an interrupt before the first epoch names its signal
        Terminal(sys.stderr).write("pypty: interrupted\n")
        return {"SIGTERM": 143, "SIGHUP": 129}.get(str(error), 130)
    finally:
        for stream in (sys.stdout, sys.stderr):
            _leave(stream)


def _leave(stream: IO[str] | None) -> None:
    """Flush a stream; where its reader has gone, let it end nowhere, so that Python does not complain when it exits."""
    if stream is None:
        return
    try:
        stream.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pypty", description="Electron ptychography: from 4D-STEM data to phase images."
    )
    parser.add_argument("--version", action="version", version=f"pypty {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, function: Any, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=function)
        return sub

    for name, function, text in (
        ("run", _run, "Reconstruct with the parameters of a file."),
        ("check", _check, "List all problems of a parameter file."),
        ("plan", _plan, "Estimate memory and batch size."),
        ("quality", _quality, "Tell how well the result in a folder describes its data, and what is wrong."),
    ):
        sub = add(name, function, text)
        sub.add_argument(
            "file",
            help="YAML file with parameters, output folder, model file, name of a preset, or parameter file of PtyRAD",
        )
        sub.add_argument(
            "--set", action="append", default=[], metavar="KEY=VALUE", help="replace a parameter"
        )
        if name == "check":
            sub.add_argument(
                "--report",
                metavar="FILE.html",
                help="also check the data: dose, overlap, probe, depth, memory, time; writes an HTML page",
            )
        if name == "plan":
            sub.add_argument(
                "--ranks",
                type=int,
                metavar="K",
                help="memory and time on up to K GPUs or processes, from rates measured here in a few seconds",
            )
        if name == "quality":
            sub.add_argument("--json", action="store_true", help="all numbers, as JSON")
        if name == "run":
            _add_run(sub)
    _add_import(add("import", _import, "Convert a detector's file of any format to calibrated HDF5."))
    _add_convert(add("convert", _convert, "Translate a parameter file of PtyRAD into a preset."))
    _add_refits(add)
    _add_tune(add("tune", _tune, "Search for the best parameters with many short reconstructions."))
    demo = add("demo", _demo, "Reconstruct MoS2 from simulated data that comes with PyPty.")
    demo.add_argument(
        "--output", default="pypty_demo", help="folder for results and figures (default: %(default)s)"
    )
    demo.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="replace a parameter")
    demo.add_argument("--overwrite", action="store_true", help="replace the result in the folder")
    explain = add("explain", _explain, "Explain a parameter.")
    explain.add_argument("key", help="name of the parameter")
    add("presets", _presets, "List the presets that come with PyPty.")
    add("doctor", _doctor, "Show the resources of this machine, and why a GPU is not used.")
    return parser


def _add_run(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--report", action="store_true", help="at the end write report.html into the output folder"
    )
    group = sub.add_mutually_exclusive_group()
    group.add_argument(
        "--resume",
        action="store_true",
        help="continue the run in the output folder (FILE itself, or that of its parameters) exactly; "
        "with --set resume=auto continue if there is something to continue, and begin otherwise",
    )
    group.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the result in the output folder; it is kept until the new run has a full epoch",
    )
    sub.add_argument(
        "--restart",
        type=_count,
        metavar="N",
        help="start the run again, up to N times, where it dies or fails for a reason that may pass",
    )
    sub.add_argument(
        "--launcher",
        metavar="COMMAND",
        help='with --restart: what starts the processes of the run, for example "mpirun -n 4"',
    )
    # the file in which a supervised run says how it ends
    sub.add_argument("--outcome", help=argparse.SUPPRESS)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a number of restarts, 0 or more; got {text!r}")
    return int(text)


def _parameters(options: argparse.Namespace) -> dict[str, Any]:
    from pypty.importers.command import load_parameters
    from pypty.params.presets import read_changes

    params, remarks = load_parameters(options.file, read_changes(options.set))
    if remarks:
        _say(remarks)
    return params


def _run(options: argparse.Namespace) -> int:
    from pypty.engine.ranks.opening import on_all_ranks
    from pypty.engine.record.interrupts import exit_status
    from pypty.iterative import run_here
    from pypty.ranks.link import Link
    from pypty.supervise import supervised

    if options.restart is not None or options.launcher is not None:
        return _supervise(options)

    def command(world: Link | None) -> int:
        params = _parameters(options)
        if options.resume:
            params["resume"] = True
            if Path(options.file).is_dir():
                params["output_folder"] = options.file
        if options.overwrite:
            params["overwrite"] = True
        result = run_here(params, world)
        _say(repr(result))
        if params.get("print_flag") not in (0, False):
            _say(result.verdict.headline)
        if options.report and not result.interrupted_by:
            from pypty.report_page import report

            _say(f"Report: {report(result)}")
        status = exit_status(result.interrupted_by)
        ended(status, result.interrupted_by)
        return status

    with supervised(options.outcome) as ended:
        return on_all_ranks(command)


def _supervise(options: argparse.Namespace) -> int:
    """Start ``pypty run`` with the same options as a child, and again where that may help."""
    from pypty.importers.command import load_parameters
    from pypty.params.presets import read_changes
    from pypty.supervise import Command, supervise, words_of

    if options.restart is None:
        raise ParameterError(
            "--launcher: it is for --restart N (N may be 0); without it, start pypty with it"
        )
    params, _ = load_parameters(options.file, read_changes(options.set))
    folder = options.file if options.resume and Path(options.file).is_dir() else params.get("output_folder")
    if not folder:
        raise ParameterError(
            "--restart: output_folder is not given, so nothing is saved that could be continued"
        )
    first_only = {"--resume": options.resume, "--overwrite": options.overwrite}
    command = Command(
        file=options.file,
        changes=tuple(options.set),
        options=("--report",) if options.report else (),
        first_only=tuple(word for word, given in first_only.items() if given),
        launcher=words_of(options.launcher),
        output_folder=Path(str(folder)).expanduser(),
    )

    def say(text: str) -> None:
        Terminal(sys.stderr).write(f"pypty: {text}\n")

    return supervise(command, options.restart, say)


def _quality(options: argparse.Namespace) -> int:
    from pypty.assessment import verdict
    from pypty.params.presets import read_changes

    found = verdict(options.file, **read_changes(options.set))
    _say(json.dumps(found.record(), indent=1, allow_nan=False) if options.json else found.text)
    return 0


def _add_refits(add: Callable[..., argparse.ArgumentParser]) -> None:
    from pypty.refits.command import add_compare, add_resolution, add_uncertainty

    add_uncertainty(add("uncertainty", _uncertainty, "Error bars from noise: fits to drawn counts."))
    add_resolution(add("resolution", _resolution, "Resolution: correlation of two halves of the counts."))
    add_compare(add("compare", _compare, "Compare results by pixels that were not fitted (free_pixels)."))
    report = add("report", _report, "Write one page about a result: verdict, figures, settings.")
    report.add_argument("file", help="output folder of a run")
    report.add_argument("-o", "--output", metavar="FILE.html", help="default: report.html in the folder")


def _uncertainty(options: argparse.Namespace) -> int:
    from pypty.refits.command import uncertainty_command

    _say(uncertainty_command(options))
    return 0


def _resolution(options: argparse.Namespace) -> int:
    from pypty.refits.command import resolution_command

    _say(resolution_command(options))
    return 0


def _compare(options: argparse.Namespace) -> int:
    from pypty.refits.command import compare_command

    _say(compare_command(options))
    return 0


def _report(options: argparse.Namespace) -> int:
    from pypty.report_page import report

    _say(f"Report: {report(options.file, options.output)}")
    return 0


def _add_import(parser: argparse.ArgumentParser) -> None:
    from pypty.readers.command import add_arguments

    add_arguments(parser)


def _import(options: argparse.Namespace) -> int:
    from pypty.readers.command import import_command

    _say(import_command(options))
    return 0


def _add_convert(parser: argparse.ArgumentParser) -> None:
    from pypty.importers.command import add_arguments

    add_arguments(parser)


def _add_tune(parser: argparse.ArgumentParser) -> None:
    from pypty.tune.command import add_arguments

    add_arguments(parser)


def _convert(options: argparse.Namespace) -> int:
    from pypty.importers.command import convert_command
    from pypty.params.presets import read_changes

    _say(convert_command(options, read_changes(options.set)))
    return 0


def _tune(options: argparse.Namespace) -> int:
    from pypty.tune.command import tune_command

    _say(tune_command(options))
    return 0


def _check(options: argparse.Namespace) -> int:
    from pypty.iterative import check

    if options.report:
        from pypty.preflight import preflight

        checklist = preflight(_parameters(options))
        checklist.write_html(options.report)
        _say(f"{checklist}\nReport: {options.report}")
        return 0 if checklist.ok else 1
    params = _parameters(options)
    report = check(params)
    if params.get("tune") is not None:  # runs ignore it
        from pypty.tune.layout import read_plan

        read_plan(params["tune"], report)
    _say(str(report))
    return 0 if report else 1


def _plan(options: argparse.Namespace) -> int:
    from pypty.engine.ranks.opening import on_all_ranks
    from pypty.engine.ranks.planning import plan_ranks
    from pypty.iterative import plan

    if options.ranks is None:
        plan(_parameters(options))
    else:
        on_all_ranks(lambda world: _say(str(plan_ranks(_parameters(options), options.ranks, world))))
    return 0


def _demo(options: argparse.Namespace) -> int:
    from pypty.demo import run_demo
    from pypty.engine.ranks.opening import on_all_ranks
    from pypty.engine.record.interrupts import exit_status
    from pypty.iterative import run_here
    from pypty.params.presets import read_changes
    from pypty.ranks.link import Link

    changes = read_changes(options.set)
    if "output_folder" in changes:
        raise ParameterError("--set output_folder: the demo's folder is set with --output")
    if options.overwrite:
        changes["overwrite"] = True

    def command(world: Link | None) -> int:
        _say(
            "Reconstructing a MoS2 monolayer from 1024 simulated diffraction patterns (80 kV, 1e6 electrons/Å^2) ..."
        )
        report = run_demo(options.output, lambda params: run_here(params, world), **changes)
        result = report.result
        _say(
            f"{len(result.epochs)} epochs in {report.seconds:.1f} s; "
            f"deviance {result.history.deviance[-1:].sum():.3f} (1 = noise only); "
            f"loss {result.loss_text}; stopped: {result.stop_reason}\n"
            f"Correlation of the phase with the known truth: {report.agreement.correlation:.4f} "
            "(typically 0.99; 0.98 with amplitudes instead of Poisson statistics)\nFigures:"
        )
        _say("\n".join(f"  {path}" for path in report.figures))
        return exit_status(result.interrupted_by)

    return on_all_ranks(command)


def _explain(options: argparse.Namespace) -> int:
    from pypty.params.explain import explain

    _say(explain(options.key))
    return 0


def _presets(options: argparse.Namespace) -> int:
    from pypty.params.presets import preset_folder, preset_names

    for name in preset_names():
        first = (preset_folder() / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
        _say(f"{name:<26}{first.lstrip('# ')}")
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from pypty.doctor import examine
    from pypty.engine.ranks.opening import on_all_ranks

    on_all_ranks(lambda world: _say(examine(world)))
    return 0


def _say(text: str) -> None:
    stream = Terminal(sys.stdout)
    stream.write(text + "\n")
    stream.flush()
