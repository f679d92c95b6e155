"""benchmarks/first_contact.py: a step that fails, hangs or cannot run does not stop the rest."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def contact(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import first_contact

    return first_contact


def python(contact: ModuleType, name: str, program: str, **changes: Any) -> Any:
    """A step that runs a program of its own."""
    chosen = {"part": 1, "limit": 20.0, "command": [sys.executable, "-c", program], "own": False, **changes}
    return contact.Step(name=name, **chosen)


def test_nothing_stops_the_rest(
    contact: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    steps = [
        python(contact, "dies", "import os; print('before', flush=True); os.abort()"),
        python(contact, "fails", "raise ValueError('no such card')"),
        python(contact, "hangs", "import time; print('began', flush=True); time.sleep(60)", limit=1.0),
        python(contact, "lacks", "", needs="a-program-that-nobody-has"),
        python(contact, "works", "print('all is well')"),
        python(contact, "later", "print('of the other part')", part=2),
    ]
    monkeypatch.setattr(contact, "all_steps", lambda emulated: steps)
    start = time.monotonic()
    assert contact.main([str(tmp_path), "--part", "1"]) == 1
    assert time.monotonic() - start < 15
    found = json.loads((tmp_path / "report.json").read_text())
    states = {name: row["state"] for name, row in found.items()}
    assert states == {
        "dies": "failed with status -6",
        "fails": "failed with status 1",
        "hangs": "timed out",
        "lacks": "left out",
        "works": "passed",
    }
    assert found["fails"]["summary"] == "ValueError: no such card"
    assert found["works"]["summary"] == "all is well"
    shown, written = capsys.readouterr().out, (tmp_path / "report.txt").read_text()
    for line in (
        "hangs: timed out",
        "lacks: left out, a-program-that-nobody-has is not installed",
        "1 steps passed",
    ):
        assert line in shown and line in written
    # the other part adds to the same report
    assert contact.main([str(tmp_path), "--part", "2"]) == 0
    assert set(json.loads((tmp_path / "report.json").read_text())) == {*states, "later"}


def test_no_time_is_left(contact: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [python(contact, name, "import time; time.sleep(60)") for name in ("first", "second")]
    monkeypatch.setattr(contact, "all_steps", lambda emulated: steps)
    monkeypatch.setattr(contact, "PART_LIMIT", 1.5)
    assert contact.main([str(tmp_path), "--part", "1"]) == 1
    found = json.loads((tmp_path / "report.json").read_text())
    assert [found[name]["state"] for name in ("first", "second")] == ["timed out", "left out"]


def test_the_steps_fit_into_their_parts(contact: ModuleType) -> None:
    steps = contact.all_steps(emulated=False)
    assert {step.part for step in steps} == {1, 2}
    for part in (1, 2):
        assert sum(step.limit for step in steps if step.part == part) <= contact.PART_LIMIT == 9 * 60
    assert contact.WHOLE_LIMIT < 12 * 60
    assert len({step.name for step in steps}) == len(steps)


def test_errors_that_a_sanitizer_finds_fail_its_step(contact: ModuleType) -> None:
    """By default its status is that of the program, which does not notice them."""
    steps = [step for step in contact.all_steps(emulated=False) if step.name in contact.SANITIZERS]
    assert len(steps) == 4
    for step in steps:
        options = step.command[: step.command.index(sys.executable)]
        assert int(options[options.index("--error-exitcode") + 1]) > 0


def test_every_step_exists(contact: ModuleType) -> None:
    import first_contact_steps

    own = [step.command[0] for step in contact.all_steps(emulated=False) if step.own]
    assert {*own, "sanitized"} == set(first_contact_steps.TASKS)


def test_on_the_emulated_device(contact: ModuleType, device: None, tmp_path: Path) -> None:
    """The steps that need no minute: the others are tried by hand."""
    chosen = "environment,agreement,out of memory,profile of Adam"
    assert contact.main([str(tmp_path), "--emulated", "--only", chosen]) == 0
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["environment"]["numbers"]["card"]
    assert all(row["good"] for row in found["agreement"]["numbers"]["errors"])
    assert found["out of memory"]["numbers"]["halved"] > 0
    assert "row_forward" in found["profile of Adam"]["numbers"]["kernels"]
