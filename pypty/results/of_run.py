"""The result of a reconstruction as it stands."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pypty.engine.epochs.loop import Reconstruction
from pypty.model.blocks import OPTIONAL, to_public
from pypty.results.history import History
from pypty.results.result import Result
from pypty.trust.verdict import Verdict


def result_of(
    reconstruction: Reconstruction,
    folder: Path | None = None,
    interrupted_by: str = "",
    verdict: Verdict | None = None,
) -> Result:
    """The current result."""
    state = reconstruction.state
    blocks = {name: to_public(name, state.variables.block(name)) for name in state.variables.present}
    sample = reconstruction.last_sample()
    last = [] if sample is None else [sample]
    return Result(
        **{name: array for name, array in blocks.items() if name not in OPTIONAL},
        optional={name: array for name, array in blocks.items() if name in OPTIONAL},
        start_positions=reconstruction.setup.scan.positions,
        loss=np.array([record.loss for record in state.records] + [sample.value for sample in last]),
        sse=np.array([record.sse for record in state.records] + [sample.info.sse for sample in last]),
        epochs=np.array([record.epoch for record in state.records], dtype=int),
        pixel_size_A=np.array(reconstruction.setup.grid.pixel_size_A),
        stop_reason=state.stop_reason,
        warnings=(
            *reconstruction.settings.notes,
            *(text for record in state.records for text in record.warnings),
        ),
        decisions=(
            *reconstruction.settings.choices,
            *(f"epoch {record.epoch}: {text}" for record in state.records for text in record.decisions),
        ),
        executor=reconstruction.objective.executor,
        settings=reconstruction.settings.record(),
        folder=folder,
        interrupted_by=interrupted_by,
        history=History.of(state.records),
        verdict=Verdict.untested("the run goes on") if verdict is None else verdict,
    )
