"""Storage of trials, and recovery of trials whose worker died."""

from __future__ import annotations

import datetime
import importlib
import inspect
import os
import random
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pypty.errors import ParameterError
from pypty.tune.layout import Range, SearchPlan
from pypty.tune.optional import load_optuna, quiet

_LOCK_WAIT_S = 120
"""Time for which a worker waits while another worker writes into an SQLite file."""
_GRACE = 5
"""Number of missed heartbeats after which a trial counts as dead."""
_MOST_RETRIES = 3
"""Largest number of repetitions of a trial whose worker died each time."""
_UNSIGNED_S = 60
"""A running trial without the name of its worker is dead after this time, because a worker first writes its name."""
_LIVING = "worker"
_ATTEMPTS = 6
_RACES = ("already exists", "unique constraint", "duplicate", "locked")
"""Parts of a database's error messages when two workers create its tables at the same time."""

Retry = Callable[[Any, Any], None]


def open_study(plan: SearchPlan, folder: Path | None, sampler: Any, pruner: Any) -> Any:
    """Create the study, or join it.

    Raises
    ------
    ParameterError
        The storage cannot be used, or the study in it is another one.
    """
    optuna = load_optuna()
    for attempt in range(_ATTEMPTS):
        try:
            study = optuna.create_study(
                storage=_open_storage(plan, folder),
                study_name=plan.study_name,
                sampler=sampler,
                pruner=pruner,
                direction="minimize",
                load_if_exists=True,
            )
            break
        except ParameterError:
            raise
        except Exception as error:  # drivers of databases may raise anything
            if attempt + 1 < _ATTEMPTS and any(text in str(error).lower() for text in _RACES):
                time.sleep(
                    (1 + attempt) * random.uniform(0.2, 0.6)
                )  # random, so that workers do not retry together
                continue
            raise ParameterError(
                f"tune.storage: {plan.storage!r} cannot be used: {type(error).__name__}: {error}"
            ) from error
    _check_same(study, plan)
    return study


def _open_storage(plan: SearchPlan, folder: Path | None) -> Any:
    """None = in memory."""
    optuna = load_optuna()
    kind, separator, rest = plan.storage.partition("://")
    if plan.storage == "memory" or (folder is None and plan.storage == "sqlite:///tune.sqlite3"):
        return None
    if not separator:
        raise ParameterError(
            f"tune.storage: given {plan.storage!r}, expected 'memory', sqlite:///FILE, journal:///FILE (for network "
            "disks), or the URL of a database"
        )
    if kind == "journal":
        return optuna.storages.JournalStorage(_journal(str(_local(rest, folder))))
    url, options = plan.storage, {}
    if kind.startswith("sqlite"):
        url = f"{kind}:///{_local(rest, folder)}"
        options = {"connect_args": {"timeout": _LOCK_WAIT_S}}
    callback: dict[str, Any] = {}
    if plan.heartbeat_s > 0:
        known = inspect.signature(optuna.storages.RDBStorage).parameters
        new = "heartbeat_stale_trial_callback"  # its name depends on the version of Optuna
        callback = {
            "heartbeat_interval": plan.heartbeat_s,
            "grace_period": _GRACE * plan.heartbeat_s,
            new if new in known else "failed_trial_callback": retry,
        }
    with quiet():
        return optuna.storages.RDBStorage(url, engine_kwargs=options, **callback)


def _local(rest: str, folder: Path | None) -> Path:
    """The file behind sqlite:// or journal://: /name is in the output folder, //name is absolute."""
    path = Path(rest.removeprefix("/")).expanduser()
    path = path if path.is_absolute() else ((folder or Path.cwd()) / path)
    if not path.parent.is_dir():
        raise ParameterError(f"tune.storage: the folder {str(path.parent)!r} does not exist; create it first")
    return path.resolve()


def _journal(path: str) -> Any:
    """A file that several machines can append to."""
    storages = load_optuna().storages
    if hasattr(storages, "journal"):
        return storages.journal.JournalFileBackend(path)
    return storages.JournalFileStorage(path)  # Optuna 3


def _check_same(study: Any, plan: SearchPlan) -> None:
    """Raise ParameterError if objective or ranges of the study differ from the plan: values could not be compared."""
    attributes = study.user_attrs
    objective = attributes.get("objective")
    advice = "choose another study_name, or another storage"
    if objective is not None and objective != plan.objective:
        raise ParameterError(
            f"tune.objective: {plan.objective!r} given, but the study {plan.study_name!r} has {objective!r}; {advice}"
        )
    compatible = load_optuna().distributions.check_distribution_compatibility
    ours = {item.name: distribution(item) for item in plan.ranges}
    for trial in study.get_trials(deepcopy=False):
        for name, old in trial.distributions.items():
            try:
                if name in ours:
                    compatible(old, ours[name])
            except ValueError as error:
                raise ParameterError(
                    f"tune.parameters.{name}: trial {trial.number} of the study {plan.study_name!r} has another kind "
                    f"of range ({error}); {advice}"
                ) from error
    if objective is None:
        study.set_user_attr("objective", plan.objective)


def distribution(range_: Range) -> Any:
    """The range as a distribution of Optuna."""
    distributions = load_optuna().distributions
    if range_.suggest == "cat":
        return distributions.CategoricalDistribution(range_.labels)
    low, high, step = range_.low, range_.high, range_.step
    if range_.suggest == "int":
        return distributions.IntDistribution(int(low), int(high), range_.log, int(step or 1))
    return distributions.FloatDistribution(low, high, range_.log, step)


def sign(trial: Any, worker: str) -> None:
    """Record which worker runs a trial."""
    trial.set_user_attr(
        _LIVING,
        {"name": worker, "host": socket.gethostname(), "pid": os.getpid(), "started": _start_of(os.getpid())},
    )


def retry_dead(study: Any, worker: str) -> list[int]:
    """Mark trials of dead workers as failed, and queue their parameters again; returns the numbers of these trials.

    A worker is dead if it is a process of this machine that is not running any more, or an earlier process with the
    name ``worker``. For other machines, databases have heartbeats.
    """
    optuna = load_optuna()
    states = optuna.trial.TrialState
    dead = []
    for trial in study.get_trials(deepcopy=False, states=(states.RUNNING,)):
        if not _is_dead(trial, worker):
            continue
        try:
            study.tell(trial.number, state=states.FAIL)
        except (ValueError, RuntimeError, optuna.exceptions.OptunaError):  # another worker did it already
            continue
        retry(study, trial)
        dead.append(trial.number)
    return dead


def retry(study: Any, trial: Any) -> None:
    """Queue the parameters of an unfinished trial again."""
    retries = int(trial.user_attrs.get("retries", 0))
    if retries >= _MOST_RETRIES or not trial.params:
        return
    study.enqueue_trial(
        dict(trial.params),
        user_attrs={"retry of": trial.number, "retries": retries + 1},
        skip_if_exists=False,
    )


def _is_dead(trial: Any, worker: str) -> bool:
    owner: Mapping[str, Any] = trial.user_attrs.get(_LIVING) or {}
    if not owner:
        begun = trial.datetime_start
        return begun is not None and (datetime.datetime.now() - begun).total_seconds() > _UNSIGNED_S
    here = owner["host"] == socket.gethostname()
    if here and owner["pid"] == os.getpid() and owner["started"] == _start_of(os.getpid()):
        return False  # another thread of this process
    if worker and owner["name"] == worker:
        return True
    return here and _start_of(int(owner["pid"])) != owner["started"]


def _start_of(pid: int) -> float | None:
    """Start time of a process, in units of the system; None if it is not running.

    Process ids are reused, so that the id alone does not identify a worker.
    """
    if sys.platform.startswith("linux"):
        try:
            text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
        fields = text.rpartition(")")[2].split()
        return None if fields[0] in "ZX" else float(fields[19])  # man 5 proc: state, and starttime, field 22
    psutil = importlib.import_module("psutil")
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return None
