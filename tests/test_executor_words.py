"""What computes the waves, what keeps a run off the fastest way, and what double precision costs on a GPU."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from problems import small_params

import pypty
from pypty.backend.array import Backend, single_to_double
from pypty.engine.setup.prepare import inspect
from pypty.model.executor_words import REMEDIES, with_remedy
from pypty.model.forward import not_fused_because
from pypty.model.options import TILT_MODES
from pypty.results.result import Result

WINDOWS = (64, 96, 120, 125, 128, 256, 500, 512)


@pytest.mark.parametrize(
    ("reason", "remedy"),
    [
        (
            "window 124",
            "window 124: pad to 128 (data_pad larger by 2)",
        ),  # not 125: padding is on both sides
        ("window 123", "window 123: pad to 125 (data_pad larger by 1)"),
        ("window 98 x 120, not square", "window 98 x 120, not square: make patterns square"),
        ("window 600", "window 600: data_bin makes it smaller; the largest one with kernels is 512"),
        ("window 407", "window 407: data_bin makes it smaller; the largest odd one with kernels is 125"),
        ("double precision", "double precision: default_dtype='auto' or 'single'"),
        ("propmethod yoshida", "propmethod yoshida: propmethod='multislice'"),
        ("near field", "near field"),
    ],
)
def test_each_reason_has_its_remedy(reason: str, remedy: str) -> None:
    assert with_remedy(reason, WINDOWS) == remedy


def test_remedies_do_what_they_say() -> None:
    """The reasons are those of the executors, and the changed parameters lead to a faster one."""
    for changes, reason in (
        ({"executor": "stages"}, "requested"),
        ({"lazy_clean": True}, "patches are filtered (lazy_clean)"),
        ({"obj_preblur_std": 0.5}, "patches are blurred (obj_preblur_std)"),
        ({"tilts": np.zeros((1, 6)), "tilt_mode": 4}, "tilts before or after the specimen"),
    ):
        _, setup = inspect(small_params(**changes))
        assert setup is not None
        assert not_fused_because(setup.model_options(True, "multislice")) == reason
        assert reason in REMEDIES
    assert TILT_MODES[0] == (False, True, False)


def test_a_result_names_the_executor(tmp_path) -> None:
    result = pypty.run(small_params(epoch_max=1, obj_preblur_std=0.5))
    assert "stages" in result.executor and "obj_preblur_std" in result.executor
    assert Result.load(result.save(tmp_path / "result.h5")).executor == result.executor
    assert pypty.run(small_params(epoch_max=1)).executor == "fused"


@pytest.mark.parametrize("ratio", [64, 2, 0])
def test_the_ratio_is_asked_of_the_card(ratio: int) -> None:
    attributes = {"SingleToDoublePrecisionPerfRatio": ratio} if ratio else {}
    xp = SimpleNamespace(cuda=SimpleNamespace(Device=lambda: SimpleNamespace(attributes=attributes)))
    assert single_to_double(Backend("gpu", xp, np.dtype(float), np.dtype(complex))) == ratio


def test_double_on_a_gpu_is_told_what_it_costs(device: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pypty.engine.setup.precision.single_to_double", lambda backend: 64)
    given = {"backend": "gpu", "epoch_max": 1}
    result = pypty.run(small_params(**given, default_dtype="double"))
    (told,) = (text for text in result.warnings if "double precision on a GPU" in text)
    assert "64 operations in single precision" in told and "twice the memory" in told
    for dtype in ("single", "auto"):
        assert pypty.plan(small_params(**given, default_dtype=dtype), show=False).precision == "single"
        assert not any(
            "on a GPU" in text for text in pypty.check(small_params(**given, default_dtype=dtype)).warnings
        )
    assert not any(
        "on a GPU" in text
        for text in pypty.check(small_params(default_dtype="double", backend="cpu")).warnings
    )
