#!/usr/bin/env python3
"""What `pypty demo` has printed and written: python .ci/look_at_demo.py FOLDER TEXT.

tests/test_demo.py looks at the same, with -m nightly.
"""

from __future__ import annotations

import sys
from pathlib import Path

FIGURES = ("object_phase", "probe", "loss", "positions", "patterns", "overview")


def problems(folder: Path, text: str) -> list[str]:
    """What is wrong; empty if nothing is."""
    found = []
    correlation = float(text.split("known truth: ")[1].split()[0])
    if not correlation > 0.987:
        found.append(f"the correlation with the truth is {correlation}, expected more than 0.987")
    if "stuck" in text:  # a large constant in the likelihood is no reason
        found.append("a block is said to be stuck")
    for name in FIGURES:
        image = (folder / f"{name}.png").read_bytes()
        if not image.startswith(b"\x89PNG") or len(image) <= 5000:
            found.append(f"{name}.png is not a picture")
    return found


if __name__ == "__main__":
    sys.exit("\n".join(problems(Path(sys.argv[1]), Path(sys.argv[2]).read_text(encoding="utf-8"))) or 0)
