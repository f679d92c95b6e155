"""``pypty.tune.tune``: many short reconstructions with parameters chosen by Optuna."""

from __future__ import annotations

import dataclasses
import logging
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pypty.engine.setup.assembly import Setup
from pypty.engine.setup.prepare import Params, inspect, read
from pypty.errors import ParameterError, PyptyError
from pypty.output.files import make_folder, remove_leftovers
from pypty.params.kinds import Text
from pypty.params.report import Report
from pypty.tune import writing
from pypty.tune.layout import Range, SearchPlan, read_plan
from pypty.tune.log import TuneLog
from pypty.tune.names import find_target, touched, with_values
from pypty.tune.optional import load_optuna, quiet
from pypty.tune.parts import check_parts, make_pruner, make_sampler
from pypty.tune.reading import best_params, records_of, study_of, values_of
from pypty.tune.results import Study, TrialRecord, short
from pypty.tune.storage import open_study, retry, retry_dead, sign
from pypty.tune.trial import Bench, Outcome, silent

_log = logging.getLogger(__name__)
_ANY = 1000
"""Stands for epoch_max if the parameters have problems."""


def tune(params: Params, n_trials: int | None = None, storage: str | None = None, worker: str = "") -> Study:
    """Search for the best parameters.

    Parameters
    ----------
    params : dict of parameters with the key ``tune`` (docs/tuning.md), or the path of such a file
    n_trials, storage : replace those of ``tune``
    worker : name of this worker. Unfinished trials of an earlier worker with this name are repeated.

    Returns
    -------
    Study. Its ``params`` are for :func:`pypty.run`; best.yaml in the output folder contains the same.

    Raises
    ------
    ParameterError
        ``tune``, the parameters or the data have problems (the message lists all), Optuna is missing, its storage
        cannot be used, or all trials failed.

    Notes
    -----
    Ctrl-C ends the search; the next start repeats the interrupted trial.
    """
    load_optuna()
    content = dict(read(params))
    overrides = {"n_trials": n_trials, "storage": storage}
    changes = {name: value for name, value in overrides.items() if value is not None}
    if changes and isinstance(content.get("tune"), Mapping):  # otherwise the check below reports it
        content["tune"] = {**content["tune"], **changes}
    plan, base = _check(content, worker)
    folder = Path(content["output_folder"]).expanduser() if content.get("output_folder") else None
    epoch_max, seed = base.settings["epoch_max"], base.settings["seed"]
    level = base.settings["print_flag"]
    bench = Bench(base, content, {touched(item.name) for item in plan.ranges})
    if folder is not None:
        remove_leftovers(make_folder(folder))
    with TuneLog(level, folder, worker), quiet():
        study = open_study(plan, folder, make_sampler(plan, seed), make_pruner(plan.pruner, epoch_max))
        search = _Search(study=study, plan=plan, params=content, bench=bench, folder=folder, worker=worker)
        return search.run()


def _check(content: Mapping[str, Any], worker: str) -> tuple[SearchPlan, Setup]:
    """Check everything before the first trial, and report all problems at once."""
    report = Report()
    if Text().problem(worker):
        report.add("worker", f"given {worker!r}, expected a name")
    plan = read_plan(content.get("tune"), report)
    inspection, base = inspect(silent(content))
    report.problems += [text for text in inspection.problems if text not in report.problems]
    if plan is not None:
        check_parts(plan, base.settings["epoch_max"] if base is not None else _ANY, report)
        _check_ranges(content, plan, report)
        if plan.objective == "validation" and not content.get("validation_fraction"):
            report.add("tune.objective", "'validation' needs held-out patterns; set validation_fraction, for example "
                       "to 0.05")  # fmt: skip
    if report.problems:
        if base is not None:
            base.close()
        report.raise_if_any()
    assert plan is not None and base is not None
    return plan, base


def _check_ranges(content: Mapping[str, Any], plan: SearchPlan, report: Report) -> None:
    """Check that the names can be set together with the other parameters."""
    base = {name: value for name, value in content.items() if name != "tune"}
    for item in plan.ranges:
        # Values themselves were checked with the range; here only whether they can be set.
        for value in item.choices[:1] if item.suggest == "cat" else (item.low, item.high):
            try:
                with_values(base, {item.name: value})
            except ParameterError as error:
                report.add(f"tune.parameters.{item.name}", str(error))
                break


@dataclasses.dataclass(kw_only=True)
class _Search:
    """This worker's part of a study."""

    study: Any
    plan: SearchPlan
    params: Mapping[str, Any]
    bench: Bench
    folder: Path | None
    worker: str
    reason: str = ""

    def run(self) -> Study:
        """Run the trials, then write the results."""
        retried = retry_dead(self.study, self.worker)
        if retried:
            _log.info("trials %s were left unfinished and are repeated", ", ".join(map(str, retried)))
        # An earlier worker may have died before it wrote best.yaml.
        self._write_best(records_of(self.study, self.plan))
        before = len(self._finished())
        n_trials = self._left(before)
        _log.info(
            "study %s: %d trials so far, %d to do; objective %s; sampler %s, pruner %s",
            self.plan.study_name,
            before,
            n_trials,
            self.plan.objective,
            self.plan.sampler.name,
            self.plan.pruner.name if self.plan.pruner else "none",
        )
        self.reason = f"{n_trials} trials done"
        if n_trials:
            self._optimize(n_trials)
        study = study_of(self.study, self.plan, self.params, self.folder, self.reason)
        self._write_best(study.trials)
        if self.folder is not None:
            writing.write_trials(self.folder, study.trials, self.plan.objective)
            units = {item.name: find_target(item.name).unit for item in self.plan.ranges}
            writing.write_figures(
                self.folder, study, units, frozenset(item.name for item in self.plan.ranges if item.log)
            )
        if study.best_trial is not None:
            text = ", ".join(f"{name} = {short(item, name)}" for name, item in study.best_params.items())
            _log.info(
                "best: trial %d, %s %.6g, %s", study.best_trial, study.objective, study.best_value, text
            )
        ended = [item for item in study.trials if item.state in ("complete", "pruned", "failed")]
        if ended and all(item.state == "failed" for item in ended):
            raise ParameterError(f"tune: all {len(ended)} trials failed; the last one: {ended[-1].note}")
        return study

    def _optimize(self, n_trials: int) -> None:
        def stop_when_full(study: Any, trial: Any) -> None:
            if self.plan.max_trials is not None and len(self._finished()) >= self.plan.max_trials:
                self.reason = f"max_trials = {self.plan.max_trials} reached"
                study.stop()

        number = [0]

        def one_trial(trial: Any) -> float:
            number[0] = trial.number
            return self._trial(trial)

        try:
            self.study.optimize(
                one_trial,
                n_trials=n_trials,
                timeout=self.plan.timeout_s,
                catch=(PyptyError,),
                gc_after_trial=True,
                callbacks=[lambda study, trial: self._trial_done(trial), stop_when_full],
            )
        except KeyboardInterrupt:
            self.reason = f"interrupted in trial {number[0]}"
            retry(self.study, self.study.get_trials(deepcopy=False)[number[0]])
            _log.warning("%s; the next start repeats it", self.reason)

    def _left(self, finished: int) -> int:
        if self.plan.max_trials is None:
            return self.plan.n_trials
        return max(0, min(self.plan.n_trials, self.plan.max_trials - finished))

    def _finished(self) -> list[Any]:
        states = load_optuna().trial.TrialState
        return list(self.study.get_trials(deepcopy=False, states=(states.COMPLETE, states.PRUNED)))

    def _trial(self, trial: Any) -> float:
        """Run one trial with the values that Optuna chooses; returns the objective."""
        sign(trial, self.worker or f"{socket.gethostname()}-{os.getpid()}")
        values = values_of(self.plan, {item.name: _suggest(trial, item) for item in self.plan.ranges})

        def report(epochs: int, value: float) -> bool:
            trial.report(value, epochs)
            return self.plan.pruner is not None and bool(trial.should_prune())

        try:
            outcome = self.bench.run(best_params(self.params, values, self.plan), self.plan.objective, report)
        except PyptyError as error:
            trial.set_user_attr("error", str(error))
            raise
        trial.set_user_attr("epochs", outcome.epochs)
        self._collate(outcome, trial.number, values)
        if outcome.pruned:
            raise load_optuna().TrialPruned(f"after {outcome.epochs} epochs")
        return outcome.value

    def _collate(self, outcome: Outcome, number: int, values: Mapping[str, Any]) -> None:
        if self.folder is not None and self.plan.collate:
            writing.write_collated(self.folder, outcome, number, values)

    def _trial_done(self, trial: Any) -> None:
        """Log a trial, and write the files that changed."""
        trials = records_of(self.study, self.plan)
        record = trials[trial.number]
        value = "" if record.value is None else f"{self.plan.objective} {record.value:.6g}, "
        text = ", ".join(f"{name} = {short(item, name)}" for name, item in record.values.items())
        _log.info(
            "trial %d %s: %s%s (%d epochs, %.1f s)%s",
            record.number,
            record.state,
            value,
            text,
            record.epochs,
            record.seconds,
            f": {record.note}" if record.note else "",
        )
        if self.folder is not None:
            writing.write_trials(self.folder, trials, self.plan.objective)
        if record.state == "complete" and _best(trials) is record:
            self._write_best(trials)

    def _write_best(self, trials: tuple[TrialRecord, ...]) -> None:
        """Write best.yaml, and repeat if another worker has found a better trial in the meantime."""
        best = _best(trials)
        if self.folder is None or best is None:
            return
        while True:
            params = best_params(self.params, best.values, self.plan)
            writing.write_best(self.folder, params, best, self.plan.objective)
            newest = _best(records_of(self.study, self.plan))
            if newest is None or newest.number == best.number:
                return
            best = newest


def _best(trials: tuple[TrialRecord, ...]) -> TrialRecord | None:
    done = [item for item in trials if item.state == "complete" and item.value is not None]
    return min(done, key=lambda item: (item.value, item.number), default=None)


def _suggest(trial: Any, range_: Range) -> Any:
    """The value that Optuna chooses, as it is stored."""
    name, low, high, step = range_.name, range_.low, range_.high, range_.step
    if range_.suggest == "cat":
        return trial.suggest_categorical(name, range_.labels)
    if range_.suggest == "int":
        return trial.suggest_int(name, int(low), int(high), step=int(step or 1), log=range_.log)
    return trial.suggest_float(name, low, high, step=step, log=range_.log)
