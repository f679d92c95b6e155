"""A run on several ranks: the same numbers as on one, whatever it refines, in each of its ways."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from problems import (
    N_PATTERNS,
    aperture_probe,
    counts,
    every_block,
    patterns,
    scan_positions,
    small_params,
    smooth_object,
    two_slices,
)
from threaded_ranks import reconstruction_on, run_on, threaded_ranks

from pypty.backend.array import to_host
from pypty.data.owned import OwnedPatterns
from pypty.data.sources import NpySource
from pypty.data.survey import Survey
from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.epochs.state import State
from pypty.engine.ranks.examination import examine_ranks
from pypty.engine.ranks.opening import Crew, together
from pypty.engine.ranks.planning import plan_ranks
from pypty.engine.ranks.recipe import Recipe
from pypty.engine.ranks.shelf import RankShelf
from pypty.engine.ranks.surveying import surveyed
from pypty.engine.ranks.team import Team
from pypty.engine.ranks.worker import Server
from pypty.engine.setup.assembly import Setup
from pypty.engine.setup.prepare import prepare
from pypty.errors import ParameterError
from pypty.objective.objective import Objective
from pypty.objective.regions import divide, region_of
from pypty.optimize.methods import METHODS
from pypty.optimize.spread import Spread
from pypty.ranks.local import PipesLink
from pypty.ranks.questions import Questions

OFF_GRID = scan_positions() + np.random.default_rng(1).uniform(-0.4, 0.4, (N_PATTERNS, 2))
MEASURED: dict[str, dict[str, Any]] = {
    "every unknown": every_block(),
    "padded data": small_params(data_pad=3, update_probe=True),
    "some of the pixels": small_params(detector_mask=np.tri(16)),
    "weights of each pattern": small_params(
        detector_mask=np.random.default_rng(2).uniform(size=(N_PATTERNS, 16, 16)) < 0.9
    ),
    "pixels without a number": small_params(
        dataset=np.where(
            np.random.default_rng(3).uniform(size=(N_PATTERNS, 16, 16)) < 0.9, patterns(), np.nan
        ),
        detector_mask="nan",
    ),
    "free pixels": small_params(free_pixels=0.05),
    "whole numbers": small_params(dataset=counts("uint8"), data_multiplier=0.5),
    "terms of PtyRAD": small_params(loss_terms={"single": {"weight": 1.0}}),
    "relative terms": small_params(loss_terms={"single": {}, "pacbed": {}, "sparse": {}}, loss_scale="ratio"),
    "patches filtered": small_params(lazy_clean=True),
    "blurred object": small_params(obj_preblur_std=0.7),
    "object modes": small_params(obj=smooth_object() * np.exp(1j * np.array([0.0, 0.1]))),
    "positions off the grid": small_params(positions=OFF_GRID, update_probe_pos=True),
    "the stages": every_block(executor="stages"),
    "fourth order": two_slices(propmethod="better_multislice"),
    "near field": small_params(recon_type="near_field", defocus_array=[100.0], alpha_near_field=0.0, Cs=0.0),
}


@pytest.mark.parametrize("name", MEASURED)
@pytest.mark.parametrize("n", [2, 3])
def test_loss_and_gradients_are_those_of_one_rank(n: int, name: str) -> None:
    found = []
    for ranks in (1, n):
        with reconstruction_on(ranks, MEASURED[name]) as run:
            problem = run.problem(run.settings.first())
            result = problem.objective.evaluate(
                problem.variables, problem.blocks, problem.indices, problem.weight, problem.regularizers
            )
            found.append(result)
    one, several = found
    assert several.loss == pytest.approx(one.loss, rel=1e-12)
    assert several.sse == pytest.approx(one.sse, rel=1e-12)
    assert several.free.deviance == pytest.approx(one.free.deviance, rel=1e-12)
    assert several.gradients.keys() == one.gradients.keys()
    for block, gradient in one.gradients.items():
        scale = float(np.abs(to_host(gradient)).max())
        np.testing.assert_allclose(
            to_host(several.gradients[block]), to_host(gradient), rtol=0, atol=1e-11 * scale
        )


MOVING: dict[str, dict[str, Any]] = {
    "every unknown": every_block(epoch_max=6),
    "warm-up": small_params(probe=None, algorithm="ml", warmup_epochs=2, epoch_max=6),
    "other patterns in every epoch": small_params(
        sequence=lambda epoch: np.arange(epoch % 3, N_PATTERNS, 3), epoch_max=5
    ),
    "patterns held out": small_params(validation_fraction=0.2, epoch_max=4),
    "object that grows": small_params(
        positions=OFF_GRID, update_probe_pos=True, dynamically_resize_yx_object=0.05, epoch_max=6
    ),
    "constraints": two_slices(
        epoch_max=4,
        constraints={"obj_rblur": {"step": 1, "std": 0.4}, "fix_probe_int": {"step": 1}},
        update_probe=True,
    ),
    "one thread more": small_params(n_threads=2, compute_batch=3, epoch_max=4),
    "data that are read": small_params(
        load_one_by_one=True, preload_to_cpu=False, compute_batch=4, epoch_max=4
    ),
    "gradients together": small_params(
        optimizer="adam", batch_size=5, grad_accumulation=2, epoch_max=3, group_mode="compact"
    ),
    **{
        name: small_params(
            optimizer=name,
            batch_size=6,
            epoch_max=3,
            update_probe=True,
            update_probe_pos=True,
            learning_rates={"obj": 1e-4, "probe": 1e-4, "positions": 1e-4},
        )
        for name in METHODS
    },
}


@pytest.mark.parametrize("name", MOVING)
def test_runs_take_the_same_path(name: str) -> None:
    """The trial steps, too: every decision is taken by rank 0 from the loss of all."""
    one, several = run_on(1, MOVING[name]), run_on(3, MOVING[name])
    assert several.stop_reason == one.stop_reason
    np.testing.assert_allclose(several.loss, one.loss, rtol=1e-9)
    np.testing.assert_allclose(several.obj, one.obj, rtol=0, atol=1e-7)
    np.testing.assert_allclose(several.positions, one.positions, rtol=0, atol=1e-7)
    assert several.history.step == pytest.approx(one.history.step, rel=1e-6)
    np.testing.assert_allclose(several.history.deviance, one.history.deviance, rtol=1e-6)


def test_the_verdict_is_the_same() -> None:
    params = small_params(dataset=counts("uint16"), epoch_max=4, update_probe=True)
    one, several = run_on(1, params).verdict, run_on(3, params).verdict
    assert one.fit is not None and several.fit is not None
    assert several.headline == one.headline
    np.testing.assert_array_equal(several.fit.indices, one.fit.indices)
    np.testing.assert_allclose(several.fit.pattern_ratio, one.fit.pattern_ratio, rtol=1e-6)
    assert several.fit.ratio == pytest.approx(one.fit.ratio, rel=1e-9)


def test_a_run_repeats_itself_to_the_last_bit() -> None:
    first, second = (run_on(3, every_block(epoch_max=3)) for _ in range(2))
    np.testing.assert_array_equal(first.obj, second.obj)
    np.testing.assert_array_equal(first.loss, second.loss)


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1), (2, 3)])
def test_a_run_resumes_on_any_number_of_ranks(before: int, after: int, tmp_path: Path) -> None:
    params = every_block(output_folder=str(tmp_path / "run"))
    whole = run_on(1, {**params, "epoch_max": 6, "output_folder": ""})
    run_on(before, {**params, "epoch_max": 3})
    resumed = run_on(after, {**params, "epoch_max": 6, "resume": True})
    np.testing.assert_allclose(resumed.loss, whole.loss, rtol=1e-9)
    np.testing.assert_allclose(resumed.obj, whole.obj, rtol=0, atol=1e-7)


def test_each_rank_reads_its_own_patterns_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, into its memory, in runs of neighbours."""
    np.save(tmp_path / "data.npy", patterns())
    params = small_params(dataset=..., data_path=str(tmp_path / "data.npy"))
    read: list[np.ndarray] = []
    original = NpySource.read

    def noted(self: NpySource, indices: np.ndarray) -> np.ndarray:
        read.append(indices)
        return original(self, indices)

    setup = prepare(params)
    monkeypatch.setattr(NpySource, "read", noted)
    with threaded_ranks(3) as link, together(setup, Crew(link)) as shared:
        run = Reconstruction(shared, State(variables=shared.variables(), epoch=0))
        problem = run.problem(run.settings.first())
        for _ in range(2):
            problem.objective.evaluate(problem.variables, problem.blocks, problem.indices)
        assert isinstance(shared.team, Team)
        owned = shared.team.owned
    setup.close()
    assert sorted(part.tolist() for part in read) == sorted(part.tolist() for part in owned)


def test_regions_are_compact_and_equal() -> None:
    positions = np.stack(np.meshgrid(np.arange(12.0), np.arange(24.0), indexing="ij"), axis=-1).reshape(-1, 2)
    used = np.arange(0, 288, 2)
    parts = divide(positions, used, 4)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(288))
    assert [len(np.intersect1d(part, used)) for part in parts] == [36] * 4
    for part in parts:  # halves along the longer side, and halves of these again
        assert np.ptp(positions[part], axis=0).tolist() in ([11.0, 5.0], [5.0, 11.0])
    region = region_of(parts[0], positions.astype(int), (8, 8), (99, 99))
    assert region.shape == tuple(int(x) + 8 for x in np.ptp(positions[parts[0]], axis=0))
    with pytest.raises(ParameterError, match="3 patterns cannot be divided among 4 processes"):
        divide(positions, used[:3], 4)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"obj_parametrization": "amplitude_phase"},
        {"default_dtype": "auto", "epoch_max": 12},
        {"keep_probe_states_orthogonal": True, "hist_length": 3},
    ],
)
def test_a_history_in_pieces_makes_the_same_steps(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is written, read again, and raised to double precision."""
    params = two_slices(**{"update_probe": True, "epoch_max": 8, **changes})
    whole = run_on(1, params)
    spread: list[Spread] = []
    keep = RankShelf.keep

    def counted(self: RankShelf, array: Any) -> Spread:
        spread.append(keep(self, array))
        return spread[-1]

    monkeypatch.setattr(RankShelf, "keep", counted)
    join = Team.join

    def in_pieces(self: Team, setup: Setup, *model: Any) -> Objective:
        plan = dataclasses.replace(setup.plan, spread_history=True)
        return join(self, dataclasses.replace(setup, plan=plan), *model)

    monkeypatch.setattr(Team, "join", in_pieces)
    pieces = run_on(3, params)
    assert len(spread) >= 2 * (len(pieces.epochs) - 1)
    single = changes.get("default_dtype") == "auto"
    np.testing.assert_allclose(pieces.loss, whole.loss, rtol=1e-4 if single else 1e-8)
    folder = {**params, "output_folder": str(tmp_path / "run")}
    run_on(3, {**folder, "epoch_max": 4})
    resumed = run_on(2, {**folder, "resume": True})
    np.testing.assert_allclose(resumed.loss, whole.loss, rtol=1e-4 if single else 1e-8)


@pytest.mark.parametrize("without_room", ["keep", "whole"])
def test_pieces_of_questions_that_found_no_room_are_forgotten(
    without_room: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers, keep, whole = [], Server._keep, Server._whole

    def full(original: Any) -> Any:
        def answer(self: Server, message: Any) -> None:
            servers.append(self)
            if self.link.rank == 1 and refuses:
                raise MemoryError("no room")
            original(self, message)

        return answer

    monkeypatch.setattr(Server, f"_{without_room}", full(keep if without_room == "keep" else whole))
    refuses: list[bool] = []
    with threaded_ranks(3) as link:
        shelf = RankShelf(link, Questions(link))
        first, second = shelf.keep(np.ones(9)), shelf.keep(np.ones(9))
        refuses.append(True)
        del first
        with pytest.raises(MemoryError, match="rank 1: no room"):
            shelf.keep(np.ones(9)) if without_room == "keep" else shelf.whole(second)
        refuses.clear()
        shelf.whole(second)
        assert list(shelf._own.kept) == [second.number]
        shelf.whole(second)  # all have answered the question before
        assert {tuple(server._pieces.kept) for server in servers} == {(second.number,)}


def test_patterns_outside_of_the_object_are_nobody_s_window() -> None:
    params = small_params(sequence=np.arange(10, 25), use_full_FOV=False, update_probe=True, epoch_max=2)
    alone, three = run_on(1, params), run_on(3, params)
    np.testing.assert_allclose(three.loss, alone.loss, rtol=1e-10)
    assert three.verdict.level == alone.verdict.level


def test_a_resumed_run_on_two_ranks_is_the_same_to_the_last_bit(tmp_path: Path) -> None:
    """The guess of rejections of the first search after it needs the batches of every rank."""
    params = small_params(
        compute_batch=2,
        update_probe=True,
        algorithm="ml",
        probe=aperture_probe(2.5),
        epoch_max=13,
        verdict=False,
    )
    whole = run_on(2, params)
    run_on(2, {**params, "epoch_max": 11, "output_folder": str(tmp_path)})
    resumed = run_on(2, {**params, "output_folder": str(tmp_path), "resume": True})
    np.testing.assert_array_equal(resumed.obj, whole.obj)


def test_pieces_that_are_not_needed_are_forgotten() -> None:
    with threaded_ranks(3) as link:
        shelf = RankShelf(link, Questions(link))
        arrays = [np.arange(10.0) + i for i in range(4)]
        first, second = shelf.keep(arrays[0]), shelf.keep(arrays[1])
        np.testing.assert_array_equal(shelf.whole(second), arrays[1])
        found = shelf.inner_products([(first, second), (arrays[2], first), (first, first)])
        assert found == pytest.approx(
            [a @ b for a, b in ((arrays[0], arrays[1]), (arrays[2], arrays[0]), (arrays[0], arrays[0]))]
        )
        np.testing.assert_allclose(
            shelf.combined(arrays[3], [2.0, -1.0], [first, second]), arrays[3] + 2 * arrays[0] - arrays[1]
        )
        del first
        shelf.whole(second)
        assert list(shelf._own.kept) == [second.number]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"detector_mask": np.tri(16)},
        {"data_normalization": "max_at_one", "data_resample": 1.5},
        {"data_multiplier": 0.5, "sequence": range(3, 22)},
    ],
)
def test_a_file_is_surveyed_by_all_ranks(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "data.npy", counts("uint16"))
    params = small_params(dataset=..., data_path=str(tmp_path / "data.npy"), **changes)
    alone = prepare(params)
    read: list[np.ndarray] = []
    original = NpySource.read

    def noted(self: NpySource, indices: np.ndarray) -> np.ndarray:
        read.append(indices)
        return original(self, indices)

    monkeypatch.setattr(NpySource, "read", noted)
    with threaded_ranks(3) as link:
        shared = prepare(params, ranks=Crew(link).ranks, look=Crew(link).look)
    n = len(changes.get("sequence", range(N_PATTERNS)))
    passes = 2 if "data_resample" in changes else 1
    assert sum(map(len, read)) == passes * n
    assert max(map(len, read)) <= -(-n // 3), "no rank has read all"
    assert alone.survey is not None and shared.survey is not None
    for field in dataclasses.fields(Survey):
        one, several = getattr(alone.survey, field.name), getattr(shared.survey, field.name)
        if isinstance(one, (np.ndarray, float)):
            np.testing.assert_allclose(several, one, rtol=1e-12, atol=1e-12)
        else:
            assert several == one
    for setup in (alone, shared):
        setup.close()


def test_what_any_rank_finds_in_a_file_is_reported(tmp_path: Path) -> None:
    data = patterns()
    data[20, 3, 4] = np.nan
    np.save(tmp_path / "data.npy", data)
    params = small_params(dataset=..., data_path=str(tmp_path / "data.npy"))
    with (
        threaded_ranks(3) as link,
        pytest.raises(ParameterError, match=r"the first in pattern 20 at \[ky=3, kx=4\]"),
    ):
        prepare(params, ranks=Crew(link).ranks, look=Crew(link).look)


def test_a_recipe_has_what_another_rank_needs(tmp_path: Path) -> None:
    """Schedules that cannot be sent give their first value there, and may vary; large arrays stay here."""
    params = every_block(update_probe=lambda epoch: epoch > 2, sequence=lambda epoch: np.arange(5 + epoch))
    setup = prepare(params)
    owned = np.array([3, 4, 9])
    recipe, arrays = pickle.loads(pickle.dumps(Recipe.of(setup, owned)))
    settings = recipe.settings()
    assert settings.first()["update_probe"] is False and settings.may_be_on("update_probe")
    assert (
        settings.first()["update_obj"] is True and settings["dataset"] is None and settings["probe"] is None
    )
    np.testing.assert_array_equal(settings.first()["sequence"], np.arange(5))
    there = recipe.setup(arrays)
    np.testing.assert_array_equal(there.feed().patterns(owned), setup.feed().patterns(owned))
    assert (
        there.model_options(True, "multislice").unknowns == setup.model_options(True, "multislice").unknowns
    )
    setup.close()


@pytest.mark.parametrize("resident", [True, False], ids=["in memory", "prepared for each batch"])
def test_a_rank_has_the_weights_of_its_own_patterns(resident: bool) -> None:
    mask = np.random.default_rng(0).random((N_PATTERNS, 16, 16))
    setup = prepare(every_block(detector_mask=mask))
    owned = np.array([3, 4, 9])
    recipe, arrays = Recipe.of(setup, owned)
    assert recipe.fixed["detector_mask"] is None and arrays[-1].shape == (3, 16, 16)
    there = recipe.setup(arrays)
    there = dataclasses.replace(there, plan=dataclasses.replace(there.plan, resident=resident))
    part, whole = there.feed(), setup.feed()
    assert part.is_resident == resident
    for chosen in (np.array([4]), np.array([3, 9])):
        np.testing.assert_array_equal(part.batch(chosen).weights, whole.batch(chosen).weights)
        np.testing.assert_array_equal(part.batch(chosen).data, whole.batch(chosen).data)


def test_a_rank_keeps_its_patterns_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were sent are not kept beside those that are fitted, nor those of the last objective."""
    servers, original = [], Server._setup

    def setup(self: Server, message: Any) -> None:
        assert self._feed is None and self._objective is None, "they have made room"
        original(self, message)
        servers.append(self)

    monkeypatch.setattr(Server, "_setup", setup)
    propagation = "'multislice' if epoch < 1 else 'better_multislice'"
    with reconstruction_on(2, two_slices(propmethod=propagation)) as run:
        epochs = run.epochs()
        next(epochs), next(epochs)
    assert len(servers) == 2
    feed = servers[-1]._feed
    assert feed is not None and feed.is_resident
    assert isinstance(feed.source, OwnedPatterns) and feed.source.patterns.nbytes == 0


def test_only_rows_of_the_patterns_of_a_pass_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, original = [], PipesLink.send

    def send(self: PipesLink, to: int, kind: str, content: Any = None, arrays: Any = ()) -> None:
        if kind == "sum":
            rows = [
                array
                for name, array in zip(content["blocks"], arrays, strict=True)
                if name in content["rows"]
            ]
            assert rows and all(len(array) == len(content["indices"]) for array in rows)
            sizes.append(len(content["indices"]))
        original(self, to, kind, content, arrays)

    monkeypatch.setattr(PipesLink, "send", send)
    run_on(3, every_block(optimizer="adam", batch_size=6, epoch_max=1, warmup_epochs=0))
    assert min(sizes) <= 3 < max(sizes), "mini-batches, and all patterns"


def test_owned_patterns_are_read_by_their_numbers() -> None:
    owned = OwnedPatterns(counts()[[2, 5, 6, 20]], np.array([2, 5, 6, 20]), (N_PATTERNS, 16, 16), "data")
    np.testing.assert_array_equal(owned.read(np.array([5, 20])), counts()[[5, 20]])
    assert owned.read(np.array([5, 6])).base is not None, "a run is a view"
    assert owned.dtype == np.uint16
    owned.close()


def test_sums_over_the_ranks_of_a_launcher_are_tried() -> None:
    with threaded_ranks(3) as link:
        (line,) = examine_ranks(link, gpu=False)
    assert line.startswith("3 processes over ") and "sums are right" in line


def test_a_plan_needs_a_number_of_ranks() -> None:
    with pytest.raises(ParameterError, match="given 0, expected a whole number >= 1"):
        plan_ranks(small_params(), 0)


def test_parts_of_a_survey_add_up(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", counts("uint16"))
    setup = prepare(small_params(dataset=..., data_path=str(tmp_path / "data.npy")))
    how = {
        "detector_mask": None,
        "preprocess": setup.preprocess,
        "multiplier": 1.0,
        "negative": False,
        "every": 1,
    }
    assert setup.source is not None
    with threaded_ranks(3) as link:
        parts = surveyed(link, setup.settings, setup.source, np.arange(N_PATTERNS), **how)
    setup.close()
    assert [part.n_compared for part in parts] == [9, 8, 8]
    np.testing.assert_array_equal(sum(part.counts for part in parts), counts().sum(axis=0))
