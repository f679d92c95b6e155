"""What ``pypty explain`` says of keys and of the entries in them."""

from __future__ import annotations

import re

import pytest

from pypty.cli import main
from pypty.errors import ParameterError
from pypty.params.explain import explain


def test_explain_of_an_entry() -> None:
    text = explain("learning_rates.probe")
    assert "rms amplitude" in text and "positions" not in text
    assert "std = 0.4 px" in explain("constraints.obj_rblur")
    assert "first epoch in which it is refined" in explain("learning_rates.objp.start")
    with pytest.raises(ParameterError, match="obj_rblur"):
        explain("constraints.obj_blur")


def test_explain_says_once_what_entries_share() -> None:
    for name in ("learning_rates", "constraints"):
        text = explain(name)
        assert text.count("start = 0") == 1 and text.count("end = None") == 1
    assert "lr = 0.01 rad" in explain("learning_rates")


def test_explain_of_another_spelling() -> None:
    with pytest.raises(ParameterError, match="learning_rates"):
        explain("Learning_Rates")


def test_what_a_key_does_is_not_exaggerated(capsys: pytest.CaptureFixture[str]) -> None:
    """Keys that most runs do not notice say what has to be there for them."""
    for key, needs in (("seed", "mc_n_modes"), ("scan_size", "weights of positions"), ("tilt_mode", "tilts")):
        main(["explain", key])
        assert re.search(rf"(?m)^ +effect   when .*{needs}", capsys.readouterr().out), key
