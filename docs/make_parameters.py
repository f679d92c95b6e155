"""Write docs/parameters.md from the schema:  python docs/make_parameters.py"""

from __future__ import annotations

from pathlib import Path

from pypty.params.explain import default_text
from pypty.params.parameter import NO_EFFECT, RECORDED, Parameter
from pypty.params.schema import GROUPS

HEAD = """# Parameters

Made by `docs/make_parameters.py` from the schema (`pypty/params/schema/`), the only place where a default exists.

A value marked **epoch** may vary with the epoch: a number, a function of the epoch, a string such as
`"lambda x: x >= 10"` or `"8e-9 if epoch == 0 else 1"` (evaluated by a safe expression library: arithmetic,
comparisons, `a if c else b`, `exp sqrt log sin cos min max abs range`, no attributes, no imports), or a table
`{"from_epoch": {0: 1, 10: 0}}` in which each value holds from its epoch on.

*recorded*: kept in `params.yaml`, no effect on the reconstruction. *no effect*: a PyPty 2.2
key that is not needed here; setting it gives a warning.
"""
MARKS = {RECORDED: "*recorded*", NO_EFFECT: "*no effect*"}


def row(parameter: Parameter) -> str:
    """One line of a table."""
    marks = ["**epoch**"] if parameter.per_epoch else []
    marks += [MARKS[parameter.status]] if parameter.status else []
    meaning = parameter.meaning + (f" Has effect when {parameter.when}." if parameter.when else "")
    cells = (f"`{parameter.name}`", f"`{default_text(parameter)}`", parameter.unit, meaning, " ".join(marks))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def document() -> str:
    """The whole page."""
    parts = [HEAD]
    for group, parameters in GROUPS.items():
        parts.append(f"## {group}\n\n| key | default | unit | meaning | |\n|---|---|---|---|---|")
        parts.append("\n".join(row(parameter) for parameter in parameters) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    Path(__file__).with_name("parameters.md").write_text(document(), encoding="utf-8")
