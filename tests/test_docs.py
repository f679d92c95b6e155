"""Documentation that says what the code does."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import yaml

from pypty._version import __version__
from pypty.params.schema import SCHEMA

ROOT = Path(__file__).parents[1]
PAGES = (*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md")))


def test_parameter_page_is_up_to_date() -> None:
    page = runpy.run_path(str(ROOT / "docs" / "make_parameters.py"))["document"]()
    assert (ROOT / "docs" / "parameters.md").read_text(encoding="utf-8") == page, (
        "run docs/make_parameters.py"
    )


def test_readme_has_the_two_commands_on_its_first_screen_and_ci_runs_one_of_them() -> None:
    first_screen = "\n".join((ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:24])
    test_command = "pip install '.[test,emulator]' && pytest -n auto"
    assert "pip install . && pypty demo" in first_screen
    assert test_command in first_screen
    ci = (ROOT / ".ci" / "run").read_text()
    assert "README.md" in ci and "pytest" in ci


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_files_of_the_package_that_a_page_names_exist(page: Path) -> None:
    """`room/file.py`, from the package, the tests or the root of the checkout."""
    for name in re.findall(r"`([\w.]+/[\w/.]+\.(?:py|cu|cuh))\b", page.read_text(encoding="utf-8")):
        places = (ROOT / name, ROOT / "pypty" / name, ROOT / "tests" / name)
        assert any(place.exists() for place in places), f"{page.name}: {name}"


def test_architecture_page_names_every_room() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for folder in sorted((ROOT / "pypty").iterdir()):
        if folder.is_dir() and (folder / "__init__.py").exists() and folder.name != "resources":
            assert f"`{folder.name}/" in text


def test_every_key_named_in_readme_exists() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    keys = re.findall(r'^    "(\w+)":', text, flags=re.MULTILINE)
    assert keys and set(keys) <= set(SCHEMA)


def test_citation_and_changelog_name_the_version_of_the_package() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{__version__}]" in changelog


def test_every_decision_is_in_the_index() -> None:
    folder = ROOT / "docs" / "decisions"
    index = (folder / "README.md").read_text(encoding="utf-8")
    for page in sorted(folder.glob("*.md")):
        assert page.name == "README.md" or f"]({page.name})" in index, page.name


def test_hooks_run_the_static_checks_of_ci() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    entries = [hook["entry"] for repository in config["repos"] for hook in repository["hooks"]]
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for command in ("ruff check", "ruff format --check", "mypy"):
        assert f"  {command}" in ci
        assert any(entry.startswith(command) for entry in entries)
