"""The table of unknowns: each row is complete, and what the rest of the house knows of blocks comes from it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from problems import every_block, small_params

import pypty
from pypty.engine.epochs.parts import all_parts
from pypty.engine.setup.prepare import prepare
from pypty.engine.setup.start import present_blocks
from pypty.model.blocks import BLOCKS, OPTIONAL, SWITCHES, Variables, from_public, to_public
from pypty.params.schema import SCHEMA
from pypty.params.schema.batches import LEARNING_RATES

ROOT = Path(__file__).parents[1]
PACKAGE = Path(pypty.__file__).parent
KNOWS_A_BLOCK = {
    "model/blocks.py": "the row",
    "model/stages": "the stage",
    "objective/curvature.py": "its curvature",
    "params/schema": "its entries",
}
"""All files that may name the newest unknown, ``detector_gains``."""


def table() -> list[str]:
    """Of docs/architecture.md."""
    rows = ["| unknown | parameter that refines it | file | unit |", "|---|---|---|---|"]
    for name, row in BLOCKS.items():
        rows.append(f"| `{name}`: {row.meaning} | `{row.switch}` | `{row.file}` | {row.unit} |")
    return rows


def test_every_block_has_its_entries_in_the_schema() -> None:
    rates = {name for name, _ in LEARNING_RATES.records}
    for name, row in BLOCKS.items():
        assert name in SCHEMA and row.switch in SCHEMA and SCHEMA[row.switch].per_epoch
        assert set(row.rates) == {part for part in all_parts(name) if not part.startswith("probe_")}
        assert set(row.rates) <= rates
    assert rates - {"probe_abs"} == {rate for row in BLOCKS.values() for rate in row.rates}
    assert {key for key in SCHEMA if key.startswith("update_")} - {
        "update_step_bfgs",
        "update_extra_cut",
    } == set(SWITCHES)


def test_names_of_files_and_tags_are_distinct() -> None:
    for column in ("switch", "file", "checkpoint"):
        assert len({getattr(row, column) for row in BLOCKS.values()}) == len(BLOCKS), column
    tags = [tag for row in BLOCKS.values() for tag in row.rates.values()]
    assert len(set(tags)) == len(tags)
    ranks = [row.freeze for row in BLOCKS.values() if row.freeze is not None]
    assert sorted(ranks) == list(range(1, len(ranks) + 1))


def test_only_the_object_is_never_frozen_and_every_reason_is_said() -> None:
    assert [name for name, row in BLOCKS.items() if row.freeze is None] == ["obj"]
    assert all(row.stuck and row.meaning and row.axes for row in BLOCKS.values())


def test_layouts_inside_and_outside() -> None:
    setup = prepare(every_block())
    variables = setup.variables()
    assert set(variables.present) == set(BLOCKS)
    assert present_blocks(setup.settings) == set(OPTIONAL)
    for name in BLOCKS:
        public = to_public(name, variables.block(name))
        back = from_public(name, public, setup.backend)
        assert back.dtype == (setup.backend.complex if BLOCKS[name].is_complex else np.float64)
        np.testing.assert_array_equal(back, variables.block(name))
        assert public.shape[0] == (25 if BLOCKS[name].per_pattern else public.shape[0]), name
    assert to_public("obj", variables.obj).shape[2] == variables.n_slices
    setup.close()


def test_a_model_without_optional_blocks() -> None:
    setup = prepare(small_params())
    assert set(setup.variables().present) == set(BLOCKS) - set(OPTIONAL)
    assert present_blocks(setup.settings) == frozenset()
    setup.close()


def test_fields_of_variables_are_the_rows() -> None:
    assert [field.name for field in dataclasses.fields(Variables)] == list(BLOCKS)
    with pytest.raises(TypeError):
        Variables(np.ones(1), np.ones(1), np.ones(1), np.ones(1))  # type: ignore[misc]


def test_no_other_file_knows_the_newest_unknown() -> None:
    """Whoever adds an unknown writes these places, and no other."""
    for path in PACKAGE.rglob("*.py"):
        place = path.relative_to(PACKAGE).as_posix()
        if "detector_gains" in path.read_text(encoding="utf-8"):
            assert any(place.startswith(known) for known in KNOWS_A_BLOCK), place


def test_the_guide_to_files_names_the_file_of_every_block() -> None:
    guide = (ROOT / "docs" / "files.md").read_text(encoding="utf-8")
    assert [row.file for row in BLOCKS.values() if f"`{row.file}`" not in guide] == []


def test_the_page_of_the_house_has_the_table() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    found = text.split("<!-- blocks -->")[1].split("<!-- end of blocks -->")[0].strip().splitlines()
    assert found == table(), "write the rows of tests/test_blocks.py: table() into docs/architecture.md"
