"""How a run on the ranks of a launcher ends: every rank gets the result, or is told why there is none.

The ranks are threads of this process; MpiLink, which a launcher would need, is replaced by links between them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import pickle
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from problems import counts, every_block, small_params, write_preset
from threaded_ranks import threaded_ranks

import pypty
from pypty.cli import main
from pypty.data.sources import PatternSource
from pypty.data.survey import part_of
from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.epochs.state import State
from pypty.engine.ranks import opening, surveying
from pypty.engine.ranks.joined import Joined
from pypty.engine.ranks.opening import crew_of, followed, on_all_ranks, share
from pypty.engine.setup.prepare import prepare
from pypty.errors import ParameterError, RankError, ResourceError
from pypty.iterative import run_here
from pypty.ranks import local
from pypty.ranks.link import Link
from pypty.ranks.local import PipesLink, WorkerLink
from pypty.ranks.messages import Header, Message
from pypty.results.of_run import result_of
from pypty.results.result import Result
from pypty.results.sent import from_sent, to_send
from pypty.supervise import may_pass


class _Worker(WorkerLink):
    """A rank of a launcher, which also counts the messages that only say that rank 0 is there."""

    beats = 0

    def local_rank(self) -> int:
        return 0

    def _take(self, source: int) -> Message:
        message = super()._take(source)
        self.beats += message.kind == "beat"
        return message


class Ranks:
    """Rank 0 in this thread, and another rank in a thread of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        mine, its = Pipe()
        self.first, self.second = PipesLink({1: mine}), _Worker(its, 1, 2)
        self._main = threading.current_thread()
        monkeypatch.setattr(opening, "launched", lambda: 2)
        monkeypatch.setattr(opening, "MpiLink", self._link)
        # in this process rank 0 would hear its own warnings
        monkeypatch.setattr(opening, "warnings_told", lambda link: contextlib.nullcontext())

    def _link(self) -> Link:
        return self.first if threading.current_thread() is self._main else self.second

    def both(self, call: Callable[[], Any], other: Callable[[], Any]) -> tuple[Any, Any]:
        """What both ranks return, or the errors that they raise."""
        ends: list[Any] = []
        thread = threading.Thread(target=lambda: ends.append(_end_of(other)), daemon=True)
        thread.start()
        found = _end_of(call)
        thread.join(20)
        assert ends, "the other rank has not ended"
        return found, ends[0]


def _end_of(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:  # noqa: BLE001 - the end of a rank
        return error


@pytest.fixture
def ranks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ranks]:
    ranks = Ranks(monkeypatch)
    yield ranks
    ranks.first.close()


def assert_same(one: Any, other: Any) -> None:
    """Two values of any kind, with arrays in them."""
    if dataclasses.is_dataclass(one):
        assert type(one) is type(other)
        one, other = vars(one), vars(other)
    if isinstance(one, dict):
        assert set(one) == set(other)
        for name in one:
            assert_same(one[name], other[name])
    else:
        np.testing.assert_equal(other, one)


def of_a_file(folder: Path) -> dict[str, Any]:
    """Parameters whose patterns every rank reads itself."""
    np.save(folder / "data.npy", counts())
    return small_params(dataset=..., data_path=str(folder / "data.npy"))


def test_every_rank_gets_the_result(ranks: Ranks) -> None:
    """What the other rank gives to ``run`` does not count; its result is that of rank 0, without the patterns."""
    params = every_block(
        epoch_max=2, update_probe=lambda epoch: epoch >= 1, window=lambda *size: np.ones((16, 16))
    )
    mine, its = ranks.both(lambda: pypty.run(params), lambda: pypty.run({}))
    assert isinstance(mine, Result), mine
    assert isinstance(its, Result), its
    assert "dataset" in mine.settings and "dataset" not in its.settings
    settings = {name: value for name, value in mine.settings.items() if name != "dataset"}
    assert_same(dataclasses.replace(mine, settings=settings), its)
    assert its.tilts is not None and its.history.loss.shape == (2,) and its.verdict.text == mine.verdict.text
    with pytest.raises(ParameterError, match="holds no data"):
        dataclasses.replace(its, verdict=dataclasses.replace(its.verdict, fit=None)).fit_quality()


def test_a_run_is_resumed_by_rank_0_alone(
    tmp_path: Path, ranks: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others neither read the folder nor put back what was in it."""
    folder = tmp_path / "run"
    run_here({**of_a_file(tmp_path), "epoch_max": 1, "output_folder": str(folder)}, None)
    read, by = pypty.iterative._read, []
    monkeypatch.setattr(
        pypty.iterative, "_read", lambda params: (by.append(threading.current_thread()), read(params))[1]
    )
    mine, its = ranks.both(*2 * [lambda: pypty.resume(folder, epoch_max=2)])
    assert isinstance(its, Result), (mine, its)
    np.testing.assert_array_equal(its.obj, mine.obj)
    assert len(its.epochs) == 2 and set(by) == {threading.current_thread()}
    assert its.settings["dataset"] is None and its.settings["data_path"] == mine.settings["data_path"]


def test_arrays_are_sent_as_they_are_in_memory() -> None:
    """Nothing large is pickled, whatever its size, and nothing that cannot be."""
    setup = prepare(small_params(epoch_max=1, static_background=np.ones((16, 16))))
    result = result_of(Reconstruction(setup, State(variables=setup.variables(), epoch=0)))
    given = {
        "dataset": threading.Lock(),  # as an open file, it cannot be pickled
        "detector_mask": np.ones((25, 16, 16)),
        "aberrations": [np.zeros(12), 3.0],
        "window": lambda: 1,
        "backend": np,
        "output_folder": Path("there"),
        "default_dtype": np.dtype(np.float32),
        "scan_size": (5, np.int64(5)),
        "loss_terms": {"poisson": {"weight": 1.0}},
        "selected_figs": np.array(["fit", "probe"]),
    }
    content, arrays = to_send(dataclasses.replace(result, settings=given))
    for array in (
        result.obj,
        result.probe,
        result.positions,
        result.static_background,
        given["detector_mask"],
    ):
        assert any(one is array for one in arrays)
    assert len(pickle.dumps({**content, "history": None, "verdict": None})) < 4000
    settings = from_sent(content, arrays).settings
    assert "dataset" not in settings and "function" in settings["window"] and "numpy" in settings["backend"]
    same = {name: value for name, value in given.items() if name not in ("dataset", "window", "backend")}
    assert_same(same, {name: settings[name] for name in same})
    assert type(settings["scan_size"]) is tuple and settings["selected_figs"] == ["fit", "probe"]


def test_what_cannot_be_sent_is_not_lost(ranks: Ranks, caplog: pytest.LogCaptureFixture) -> None:
    lock = threading.Lock()
    mine, its = ranks.both(lambda: on_all_ranks(lambda world: lock), lambda: on_all_ranks(lambda world: lock))
    assert mine is lock
    assert isinstance(its, RankError)
    assert "rank 0: its result cannot be sent to the other ranks (TypeError: cannot pickle" in str(its)
    assert "it is complete on this one" in caplog.text


def test_no_memory_for_a_copy_of_the_result_on_either_side(
    ranks: Ranks, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def nothing(result: int) -> tuple[Any, Sequence[np.ndarray]]:
        raise MemoryError("no room")

    mine, its = ranks.both(lambda: share(ranks.first, 7, nothing), lambda: followed(ranks.second, from_sent))
    assert mine is None and "cannot be sent" in str(its) and "no room" in caplog.text

    again = Ranks(monkeypatch)
    arrays_of = local.arrays_of

    def no_room(header: Header) -> list[np.ndarray]:
        if header.kind == opening.RESULT:
            raise MemoryError
        return arrays_of(header)

    monkeypatch.setattr(local, "arrays_of", no_room)
    values = np.arange(1000.0)

    def call() -> Any:
        return on_all_ranks(
            lambda world: values, lambda result: (None, [result]), lambda content, arrays: arrays
        )

    mine, its = again.both(call, call)
    assert mine is values
    assert isinstance(its, RankError) and "there is no memory here for the result" in str(its)


def test_the_error_of_rank_0_ends_the_others(ranks: Ranks) -> None:
    mine, its = ranks.both(*2 * [lambda: pypty.run({"acc_voltage": -1})])
    assert isinstance(mine, ParameterError)
    assert isinstance(its, RankError) and str(its).startswith("rank 0: ParameterError: ")


def test_a_rank_that_has_gone_does_not_cost_the_result(ranks: Ranks) -> None:
    mine, _ = ranks.both(lambda: on_all_ranks(lambda world: world and "done"), ranks.second.close)
    assert mine == "done"


def test_a_rank_that_is_lost_in_the_verdict_does_not_cost_the_result(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def lost(run: Reconstruction) -> Any:
        raise RankError("rank 1 was ended by SIGKILL")

    monkeypatch.setattr("pypty.trust.verdict.measure", lost)
    result = run_here(small_params(epoch_max=1), None)
    assert len(result.epochs) == 1 and "a process of the run was lost" in result.verdict.text
    assert "rank 1 was ended by SIGKILL; the result is complete" in caplog.text


def test_rank_0_is_known_to_be_there_while_it_prepares(ranks: Ranks, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only in the epochs: it may read patterns, draw figures or write files for long."""
    monkeypatch.setattr("pypty.ranks.link.OWN_BEAT_S", 0.01)
    over = threading.Event()
    mine, its = ranks.both(*2 * [lambda: on_all_ranks(lambda world: over.wait(0.2))])
    assert mine is its is False
    assert ranks.second.beats >= 3


def test_workers_know_that_rank_0_is_there_from_their_start(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    class Local(PipesLink):
        @contextlib.contextmanager
        def alive(self) -> Iterator[None]:
            told.append("there")
            yield
            told.append("no more")

        def close(self) -> None:
            told.append("closed")

    monkeypatch.setattr(opening, "LocalLink", lambda module, environments, patience_s: Local({}))
    setup = prepare(small_params(devices=2))
    with crew_of() as crew:
        assert crew.link(setup.settings, setup.backend) is crew.link(setup.settings, setup.backend)
        assert told == ["there"]
    assert told == ["there", "no more", "closed"]


# --- what is no problem of the parameters ----------------------------------------------------------------------------


def test_a_rank_that_is_lost_in_the_survey_is_no_problem_of_the_parameters(tmp_path: Path) -> None:
    """Its error may pass, so that the run is tried again; the file is closed."""
    opened: list[PatternSource] = []

    def look(source: PatternSource, *given: Any, **how: Any) -> Any:
        opened.append(source)
        raise RankError("rank 1 has gone")

    params = of_a_file(tmp_path)
    with pytest.raises(RankError, match="rank 1 has gone") as raised:
        prepare(params, look=lambda settings, backend: look)
    assert may_pass(raised.value)
    with pytest.raises(Exception, match=r"closed|NoneType"):
        opened[0].read(np.arange(1))


def test_a_rank_without_memory_for_the_survey(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That says nothing about the data either."""

    def struck(*given: Any, **how: Any) -> Any:
        if "progress" in how:
            raise MemoryError("no room")
        return part_of(*given, **how)

    monkeypatch.setattr(surveying, "part_of", struck)
    with threaded_ranks(2) as link, pytest.raises(ResourceError, match=r"rank 1: no room") as raised:
        run_here(of_a_file(tmp_path), link)
    assert may_pass(raised.value)


def test_commands_send_their_exit_status_only(
    ranks: Ranks, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``pypty run`` on the other ranks needs no object."""
    sent: list[Any] = []
    send = PipesLink.send

    def noted(self: PipesLink, to: int, kind: str, content: Any = None, arrays: Any = ()) -> None:
        if kind == opening.RESULT:
            sent.append((content, len(arrays)))
        send(self, to, kind, content, arrays)

    monkeypatch.setattr(PipesLink, "send", noted)
    file = write_preset(tmp_path, epoch_max=1, verdict=False, print_flag=0)
    mine, its = ranks.both(*2 * [lambda: main(["run", str(file)])])
    assert (mine, its) == (0, 0) and sent == [(0, 0)]
    assert capsys.readouterr().out.count("Result(") == 1


def test_a_message_says_which_rank_ends_and_why(ranks: Ranks, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        ranks.both(*2 * [lambda: pypty.run({"acc_voltage": -1})])
    assert "rank 1: the run has ended: rank 0: ParameterError" in caplog.text


def test_a_run_that_ends_in_a_line_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another rank waits for a decision about its loss when rank 0, after Ctrl-C, asks nothing any more."""
    found: list[Any] = []

    def serve(link: Link) -> None:
        try:
            found.append(followed(link, from_sent))
        except RankError as error:
            found.append(error)

    mine, its = Pipe()
    thread = threading.Thread(target=serve, args=(WorkerLink(its, 1, 2),), daemon=True)
    thread.start()
    decide, trials = Joined._decide, []

    def interrupted(self: Joined, part: Any, task: Any, asked: Any) -> Any:
        trials.append(task.limit is not None)
        # not the first one, which plans transforms and tells beats meanwhile
        if trials.count(True) == 3 and trials[-1]:
            link._ready(10.0)  # the loss has come: the rank waits
            signal.raise_signal(signal.SIGINT)
        return decide(self, part, task, asked)

    monkeypatch.setattr(Joined, "_decide", interrupted)
    link = PipesLink({1: mine})
    result = run_here(small_params(epoch_max=6), link)
    share(link, result, to_send)
    thread.join(10)
    assert result.interrupted_by == "SIGINT"
    assert isinstance(found[0], Result), str(found[0])
    assert found[0].interrupted_by == "SIGINT"
