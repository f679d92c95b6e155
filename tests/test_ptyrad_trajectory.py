"""Three iterations of PtyRAD with Adam and SGD, step by step (tests/golden/ptyrad/trajectory_*.npz).

Written by PtyRAD 1.0.0 in double precision, from the inputs of its case C (two object modes, three slices, a tilt;
single + pacbed + sparse losses) in fixed batches, with six constraints and a probe that begins to move in the second
iteration: variables after, and losses of the batches in, every iteration.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ptyrad_cases import NAMES, params_of, read_case

from pypty.constraints.projections import ProjectionContext
from pypty.engine.epochs import constrain
from pypty.engine.epochs.batches import Batches
from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.epochs.state import State
from pypty.engine.setup.prepare import prepare

FOLDER = Path(__file__).parent / "golden" / "ptyrad"
LOSSES = {name: f"loss_{name}" for name in NAMES}


def constraints_of(stored: Any) -> dict[str, dict[str, Any]]:
    """Ours start with epoch 0."""
    found = {}
    for name, entry in json.loads(str(stored["constraints"])).items():
        if entry["start_iter"] is not None:
            own = {key: value for key, value in entry.items() if not key.endswith("_iter")}
            found[name] = own | {"start": entry["start_iter"] - 1, "end": entry["end_iter"]}
    return found


def parameters(name: str, case: dict[str, Any], stored: Any) -> dict[str, Any]:
    """Rates in our units: our probe is theirs over N, our tilts are -tan of theirs."""
    rates, n = json.loads(str(stored["lr"])), case["in_probe"].shape[-1]
    learning = {
        "obja": rates["obja"],
        "objp": rates["objp"],
        "probe_abs": {"lr": rates["probe"] / n, "start": 1},
        "positions": rates["probe_pos_shifts"],
        "tilts": rates["obj_tilts"],
    }
    return params_of(
        case,
        sequence=None,
        optimizer=name,
        optimizer_options={"momentum": 0.5} if name == "sgd" else {},
        learning_rates=learning,
        lazy_moments=False,
        obj_parametrization="amplitude_phase",
        constraints=constraints_of(stored),
        update_slice_distances=False,
        update_extra_cut=0,
        epoch_max=3,
    )


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_trajectory_of_ptyrad(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = read_case("C")
    with np.load(FOLDER / f"trajectory_{name}.npz") as file:
        stored = {key: file[key] for key in file.files}
    batches = [np.sort(batch) for batch in json.loads(str(stored["batches"]))]
    monkeypatch.setattr(Batches, "of_epoch", lambda *_: batches)

    def context(*given: Any) -> ProjectionContext:
        """pos_recenter counts from the whole corners there."""
        return ProjectionContext(*given[:-1], case["in_crop_pos"].astype(float))

    monkeypatch.setattr(constrain, "ProjectionContext", context)
    setup = prepare(parameters(name, case, stored))
    run = Reconstruction(setup, State(variables=setup.variables(), epoch=0))
    n = case["in_probe"].shape[-1]
    for number, record in enumerate(run.epochs(), 1):
        state = run.state.variables
        found = {
            "obja": abs(state.obj),
            "objp": np.angle(state.obj),
            "probe_pos_shifts": state.positions - case["in_crop_pos"],
            "obj_tilts": -1e3 * np.arctan(state.tilts[:, 2:4]),
        }
        for key, array in found.items():
            wanted = stored[f"it{number}_{key}"]
            assert abs(array - wanted).max() < 1e-6 * abs(wanted).max(), (number, key)
        # Orthogonal modes have no phase of their own, but moments do not turn with them: go on from theirs.
        probe, theirs = n * state.probe, stored[f"it{number}_probe"]
        overlap = (probe.conj() * theirs).sum(axis=(1, 2))
        turned = probe * (overlap / abs(overlap))[:, None, None]
        assert abs(turned - theirs).max() < 1e-6 * abs(theirs).max()
        run.state.variables = state.replace({"probe": turned / n})
        for key, value in record.loss_terms.items():
            assert value == pytest.approx(stored[f"it{number}_loss_{LOSSES[key]}"].mean(), rel=1e-6), (
                number,
                key,
            )
    setup.close()
    assert run.state.progress.steps == 6
