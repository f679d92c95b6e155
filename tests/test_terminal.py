"""What people see, on terminals of every kind."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from problems import write_preset
from tqdm import tqdm

from pypty.output.terminal import Terminal, fitting


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0.5 Å, 10² × 3 – “done” …", '0.5 A, 10^2 x 3 - "done" ...'), ("漢", "?"), ("plain", "plain")],
)
def test_text_on_an_ascii_terminal(text: str, expected: str) -> None:
    assert fitting(text, "ascii") == expected
    assert fitting(text, None) == expected
    assert fitting(text, "utf-8") == text


def test_a_terminal_writes_what_its_stream_can_express() -> None:
    raw = io.BytesIO()
    stream = Terminal(io.TextIOWrapper(raw, encoding="ascii"))
    stream.write("1 Å\n")
    stream.flush()
    assert raw.getvalue() == b"1 A\n"


def test_a_closed_stream_makes_a_terminal_silent() -> None:
    closed = io.StringIO()
    closed.close()
    terminal = Terminal(closed)
    assert terminal.write("text") == 4
    terminal.flush()
    assert not terminal.isatty()
    with pytest.raises(OSError, match="no stream"):
        terminal.fileno()


def test_a_terminal_is_its_stream_so_that_lines_clear_the_bar() -> None:
    stream = io.StringIO()
    assert Terminal(stream) == stream and Terminal(stream) == Terminal(stream)
    assert Terminal(stream) != io.StringIO()
    bar = tqdm(total=2, file=Terminal(stream), leave=False)
    bar.refresh()
    tqdm.write("a line", file=Terminal(stream))
    bar.close()
    before, _, _ = stream.getvalue().partition("a line")
    assert before.endswith("\r")  # the bar was cleared first


def command(*arguments: str, **options: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "pypty", *arguments], **options)  # type: ignore[call-overload]


def test_a_pipe_whose_reader_has_gone_does_not_end_a_run(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    preset = write_preset(tmp_path, epoch_max=2, print_flag=2)  # writes a line for every epoch, and a result
    try:
        run = command("run", str(preset), stdout=writing, stderr=writing)
    finally:
        os.close(writing)
    assert run.wait(timeout=120) == 0
    assert (tmp_path / "out" / "resume.h5").is_file()


def test_an_ascii_terminal_gets_ascii(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    demo = ("demo", "--output", str(tmp_path / "out"), "--set", "epoch_max=1", "--set", "warmup_epochs=0")
    run = command(*demo, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    shown, errors = run.communicate(timeout=120)
    assert run.returncode == 0, errors
    assert b"electrons/A^2" in shown and b"\\x" not in errors
