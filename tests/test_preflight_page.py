"""The page of the pre-flight: well formed, alone, complete, escaped."""

from __future__ import annotations

import base64
import importlib
import inspect
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from problems import small_params

from pypty.demo import demo_params
from pypty.errors import OutputError
from pypty.plots.preflight import plot_beam_and_slices, plot_counts, plot_disk, plot_probe_window, plot_scan
from pypty.preflight import Preflight, preflight
from pypty.preflight.item import Item
from pypty.preflight.page import fragment, page

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Reader(HTMLParser):
    """Checks that tags are closed in order; keeps text, tags and what attributes refer to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture(scope="module")
def found() -> Preflight:
    return preflight(
        demo_params(
            "",
            epoch_max=2,
            scan_step_A=0.9,
            num_slices=2,
            sample_name="<script>alert('MoS2 & co')</script>",
            chemical_formula='"><img src=x onerror=1>',
        )
    )


@pytest.fixture(scope="module")
def text(found: Preflight, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = found.write_html(tmp_path_factory.mktemp("page") / "report.html")
    return path.read_text(encoding="utf-8")


def test_page_is_well_formed_and_alone(text: str) -> None:
    reader = Reader(text)
    assert text.startswith("<!DOCTYPE html>")
    assert "http" not in text and "script" not in reader.tags and "link" not in reader.tags
    assert reader.links and all(link.startswith("data:image/png;base64,") for link in reader.links)
    assert "@import" not in text and "url(" not in text


def test_page_contains_every_item_and_its_advice(found: Preflight, text: str) -> None:
    words = " ".join(Reader(text).words.split())
    for item in found.items:
        for part in (item.name, item.text, item.limit, item.meaning):
            assert " ".join(part.split()) in words, item.name
        assert (item.what_to_do in words) == (item.status != "pass")
    for part in found.not_checked:
        assert part in words
    assert found.summary in words
    assert "Memory plan" in words and "epoch_max: 2" in words
    assert "positions: array (1024, 2) float64" in words


def test_what_the_user_wrote_is_escaped(text: str) -> None:
    assert "<script>" not in text and "<img src=x" not in text
    assert "&lt;script&gt;alert(&#x27;MoS2 &amp; co&#x27;)&lt;/script&gt;" in text


def test_figures_are_pictures(text: str) -> None:
    pictures = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", text)
    assert len(pictures) == 5
    for picture in pictures:
        assert base64.b64decode(picture)[:8] == b"\x89PNG\r\n\x1a\n"


def test_page_of_broken_parameters(tmp_path: Path) -> None:
    found = preflight({"acc_voltage": "<b>", "dataset": None})
    words = Reader(found.write_html(tmp_path / "bad.html").read_text(encoding="utf-8")).words
    assert "Problems" in words and "acc_voltage" in words and "do not start yet" in words


def test_notebook_shows_a_fragment(found: Preflight) -> None:
    shown = found._repr_html_()
    reader = Reader(shown)
    assert "html" not in reader.tags and "table" in reader.tags and "scan step" in reader.words


def test_terminal_table(found: Preflight) -> None:
    lines = str(found).splitlines()
    assert lines[0] == found.summary
    rows = [line for line in lines if re.match(r"  (pass|warn|fail)  \S", line)]
    assert len(rows) == len(found.items)
    names = max(len(item.name) for item in found.items)
    assert {line[8 + names : 10 + names] for line in rows} == {"  "}, "values are in one column"
    assert repr(found) == str(found)


def test_page_is_written_in_one_step_and_for_small_data(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    found = preflight(small_params(epoch_max=1))
    found.write_html(path)
    assert str(found).startswith("Pre-flight: ")
    assert "</html>" in path.read_text(encoding="utf-8")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["report.html"], "no temporary file is left"


def test_page_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        preflight(small_params(epoch_max=1)).write_html(tmp_path / "no" / "folder" / "report.html")


def test_preflight_is_called_by_its_package_too() -> None:
    import pypty

    module = importlib.import_module("pypty.preflight")
    assert callable(pypty.preflight)
    assert list(inspect.signature(module).parameters) == list(inspect.signature(preflight).parameters)
    assert module({"acc_voltage": -1.0}).ok is False


def test_figures_have_labels_and_say_their_numbers() -> None:
    pattern = np.random.default_rng(0).poisson(3.0, (20, 30)).astype(float)
    disk = plot_disk(pattern, (2.0, 1.0), (10.0, 15.0), 4.0)
    assert disk.axes[0].get_xlabel() == "kx / mrad" and "4 mrad, 4 px" in disk.axes[0].get_title()
    assert disk.axes[0].patches[0].get_radius() == 4.0
    assert "mean pattern" in plot_disk(np.zeros((4, 4)), (1.0, 1.0)).axes[0].get_title()
    probe = plot_probe_window(pattern, (0.5, 0.25), (10.0, 15.0), 3.0)
    assert "90 % in 3 Å; window 10 x 7.5 Å" in probe.axes[0].get_title()
    assert any("Å" in text.get_text() for text in probe.axes[0].texts), "scale bar"
    scan = plot_scan(np.random.default_rng(1).uniform(0, 9, (30, 2)), 2.0)
    assert "30 positions" in scan.axes[0].get_title() and scan.axes[1].get_ylabel() == "y / Å"
    assert len(plot_scan(np.array([[0.0, 0.0], [1.0, 0.0]])).axes) == 2
    counts = plot_counts(np.full(9, 7.0))
    assert counts.axes[0].get_xlabel() == "counts of a pattern"
    slices = plot_beam_and_slices(
        np.full(3, 10.0), alpha=0.02, defocus_A=100.0, depth_of_focus_A=50.0, thin_A=20.0, wavelength=0.025
    )
    assert "crossover at -100 Å" in slices.axes[0].get_title()
    assert slices.axes[0].get_ylabel() == "depth along the beam / Å"
    low, high = slices.axes[0].get_ylim()
    assert low > 30 > -100 > high, "depth grows downwards and the crossover is in view"


def test_a_fragment_has_the_worst_verdict_and_advice_only_where_it_is_needed() -> None:
    good = Item(
        name="a & b",
        status="pass",
        value=3.0,
        unit="px",
        limit="warn above 4",
        meaning="what it is",
        what_to_do="never shown",
    )
    bad = Item(
        name="scan step",
        status="warn",
        value="two",
        unit="",
        limit="none",
        meaning="meaning <it>",
        what_to_do="do this",
    )
    text = fragment("all of it", [good, bad], ["a problem"], [], ["not this"])
    reader = Reader(text)
    words = " ".join(reader.words.split())
    assert 'class="verdict warn"' in text and "a & b" in words and "meaning <it>" in words
    assert "do this" in words and "never shown" not in words
    assert "Problems" in words and "Not checked" in words and "Warnings of the parameters" not in words
    assert 'class="verdict pass"' in fragment("fine", [good], [], [], [])


def test_a_page_has_a_card_for_each_figure() -> None:
    figure = Figure(figsize=(1, 1))
    settings = {"sample_name": "WSe2", "obj": np.ones((3, 4)), "epoch_max": 7}
    text = page("summary", "<p>body</p>", {"counts": figure}, "plan of memory", settings)
    words = " ".join(Reader(text).words.split())
    assert "Counts of the patterns in the sample." in words and "plan of memory" in words
    assert "epoch_max: 7" in words and "obj: array (3, 4) float64" in words and "WSe2" in words
