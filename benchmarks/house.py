"""Numbers about the package's code itself, for before and after a change of the house.

    python benchmarks/house.py [CHECKOUT ...]

For each checkout: files and lines of the package, share of lines with a comment, classes that may be constructed with
more than five positional values, the most positional values that any may be given, class names that occur more than
once, and the files that name an unknown (``beam_current``, and ``detector_gains``, the newest).
"""

from __future__ import annotations

import argparse
import ast
import collections
import io
import tokenize
from pathlib import Path

LARGEST = 5


def is_keyword_only(node: ast.ClassDef) -> bool | None:
    """Of a dataclass; None for other classes."""
    for decorator in node.decorator_list:
        call = decorator if isinstance(decorator, ast.Call) else None
        if getattr(call.func if call else decorator, "id", "") == "dataclass":
            words = {word.arg: word.value for word in call.keywords} if call else {}
            return bool(getattr(words.get("kw_only"), "value", False))
    return None


def positional(node: ast.ClassDef) -> int:
    """How many values may be given by position to construct it."""
    keyword_only = is_keyword_only(node)
    if keyword_only is None:
        makers = [item for item in node.body if getattr(item, "name", "") == "__init__"]
        return len(makers[0].args.args) - 1 if makers else 0
    if keyword_only:
        return 0
    fields = [item for item in node.body if isinstance(item, ast.AnnAssign)]
    after = [i for i, item in enumerate(fields) if "KW_ONLY" in ast.unparse(item.annotation)]
    return after[0] if after else len(fields)


def numbers(package: Path) -> dict[str, object]:
    files = sorted(path for path in package.rglob("*.py"))
    lines = comments = 0
    classes: dict[str, int] = {}
    names: collections.Counter[str] = collections.Counter()
    naming: dict[str, int] = {"beam_current": 0, "detector_gains": 0}
    for path in files:
        text = path.read_text(encoding="utf-8")
        lines += text.count("\n")
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        comments += sum(token.type == tokenize.COMMENT for token in tokens)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                names[node.name] += not node.name.startswith("_")
                where = f"{path.relative_to(package)}: {node.name}"
                classes[where] = positional(node)
        for unknown in naming:
            naming[unknown] += unknown in text
    widest = max(classes, key=lambda name: classes[name])
    return {
        "files": len(files),
        "lines": lines,
        "lines with a comment": f"{100 * comments / lines:.1f} %",
        f"classes of more than {LARGEST} positional values": sum(n > LARGEST for n in classes.values()),
        "most positional values": f"{classes[widest]} ({widest})",
        "names of classes that repeat": ", ".join(sorted(name for name, n in names.items() if n > 1))
        or "none",
        "files that name beam_current": naming["beam_current"],
        "files that name detector_gains": naming["detector_gains"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkouts", nargs="*", default=["."], metavar="CHECKOUT")
    for checkout in parser.parse_args().checkouts:
        print(checkout)
        for name, value in numbers(Path(checkout) / "pypty").items():
            print(f"  {name:<42}{value}")


if __name__ == "__main__":
    main()
