"""Expressions of the epoch: what they can say, and what they must never do."""

from __future__ import annotations

import ast
import math
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pypty.errors import ExpressionError
from pypty.params.bounded import MAX_BITS, MAX_ITEMS, MAX_STEPS, Evaluator
from pypty.params.expressions import FUNCTIONS, MAX_LENGTH, compile_expression
from pypty.params.ranges import LENGTHS

WORKS: dict[str, tuple[Any, Any]] = {
    "1": (1, 1),
    "8e-9 if epoch==0 else 1": (8e-9, 1),
    "lambda x: x>=10": (False, True),
    "lambda epoch: epoch + 1": (1, 13),
    "lambda k: 2 * k": (0, 24),
    "  lambda   k  :\n  2 * k": (0, 24),
    "x": (0, 12),
    "epoch": (0, 12),
    "epoch >= 5 and epoch < 20": (False, True),
    "not epoch": (True, False),
    "epoch % 5 == 0": (True, False),
    "epoch // 5": (0, 2),
    "2 ** -epoch": (1, 2**-12),
    "-1.5 + epoch": (-1.5, 10.5),
    "1e-3 * (4 + epoch)": (4e-3, 16e-3),
    "np.exp(-epoch / 12)": (1.0, math.exp(-1)),
    "exp(-epoch / 12)": (1.0, math.exp(-1)),
    "np.sqrt(4) + np.pi": (2 + math.pi, 2 + math.pi),
    "np.inf": (math.inf, math.inf),
    "inf": (math.inf, math.inf),
    "min(epoch, 5)": (0, 5),
    "max([epoch, 5])": (5, 12),
    "round(epoch / 5)": (0, 2),
    "[0, 10, 20]": ([0, 10, 20], [0, 10, 20]),
    "[0.5, 2][epoch > 5]": (0.5, 2),
    "range(3)": ([0, 1, 2], [0, 1, 2]),
    "range(0, 10, 5) if epoch else range(2)": ([0, 1], [0, 5]),
    "[2 * k for k in range(3)]": ([0, 2, 4], [0, 2, 4]),
    "len(range(epoch))": (0, 12),
    "None if epoch else 3": (3, None),
    "True": (True, True),
    "'mean' if epoch < 5 else 'mean_full'": ("mean", "mean_full"),
    "epoch in [0, 1, 2]": (True, False),
    "0 <= epoch < 10": (True, False),
}


@pytest.mark.parametrize("text", WORKS)
def test_it_gives_the_value_at_an_epoch(text: str) -> None:
    function = compile_expression(text)
    assert (function(0), function(12)) == WORKS[text]
    assert function(0) == WORKS[text][0], "the order of calls makes no difference"


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_every_listed_function_can_be_called_with_and_without_np(name: str) -> None:
    argument = {"list": "[2]", "len": "[2]", "max": "[2]", "min": "[2]"}.get(name, "2")
    plain, numpy = (compile_expression(f"{prefix}{name}({argument})")(0) for prefix in ("", "np."))
    assert plain == numpy == FUNCTIONS[name]([2] if "[" in argument else 2)


REFUSED = {
    "empty": "",
    "blank": "   ",
    "syntax": "lambda x: x >=",
    "half a bracket": "(1",
    "unknown name": "y > 3",
    "unknown function": "open('x')",
    "unknown attribute of np": "np.load('x')",
    "builtins": "__builtins__",
    "import function": "__import__('os')",
    "import": "import os",
    "from import": "from os import system",
    "class of a tuple": "().__class__",
    "subclasses": "().__class__.__bases__[0].__subclasses__()",
    "class of the epoch": "epoch.__class__",
    "dict of a function": "np.exp.__dict__",
    "globals through a function": "round.__self__",
    "attribute of a number": "epoch.real",
    "method of a number": "epoch.bit_length()",
    "method of a string": "'a'.upper()",
    "method of the names": "np.clear()",
    "method of a list": "[1].copy()",
    "format": "'{0.__class__}'.format(1)",
    "f-string with attribute": "f'{epoch.__class__}'",
    "type": "type(1)",
    "eval": "eval('1')",
    "getattr": "getattr(1, 'real')",
    "assignment": "a = 1",
    "assignment of the epoch": "epoch = 1",
    "augmented assignment": "epoch += 1",
    "walrus": "(a := 1)",
    "two expressions": "1; 2",
    "two lines": "1\n2",
    "delete": "del epoch",
    "lambda inside": "(lambda y: y)(1)",
    "lambda that returns a lambda": "lambda x: lambda y: y",
    "yield": "(yield 1)",
    "await": "await epoch",
    "string where a number belongs": "'a' + 1",
    "division by zero": "1 / 0",
    "logarithm of zero": "log(0)",
    "overflow": "exp(1e6)",
    "index": "[1][5]",
    "wrong arguments": "sqrt(1, 2, 3)",
    "keyword arguments": "sqrt(a=2)",
    "call of a number": "5(3)",
    "NUL": "1\0",
    "lone surrogate": "'\ud800'",
    "a word": "banana",
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused(name: str) -> None:
    with warnings.catch_warnings(), pytest.raises(ExpressionError) as caught:
        warnings.simplefilter("ignore")
        compile_expression(REFUSED[name])(0)
    assert REFUSED[name].strip()[:5] in str(caught.value).encode().decode("unicode_escape") or name == "NUL"


# Of a size that is noticed, but harms no machine on which one is not refused.
BOMBS = {
    "tower of powers": "9**9**9",
    "large power": "9**9999999999",
    "power of a large number": "(9**99999)**99999",
    "repeated string": "'a' * 10**10",
    "repeated list": "[0] * 10**10",
    "list of lists": "[[0] * 10000] * 10**6",
    "long range": "range(10**12)",
    "length of a long range": "len(range(10**18))",
    "comprehension over ranges": "[1 for a in range(10**6) for b in range(10**6)]",
    "nested comprehensions": "[[[1 for a in range(9999)] for b in range(9999)] for c in range(9999)]",
    "shift": "1 << 10**10",
    "padded string": "'%99999999d' % 1",
    "padded f-string": "f'{1:99999999}'",
    "padding method": "'a'.ljust(10**8)",
    "bytes of a number": "(1).to_bytes(10**8, 'big')",
    "text of a large number": "len(f'{10**99999}')",
    "too long": "1+" * MAX_LENGTH + "1",
    "many signs": "-" * (MAX_LENGTH - 10) + "1",
    "many nots": "not " * (MAX_LENGTH // 4 - 5) + "1",
    "power of the largest base": "4000000 ** 4000000",
    "products of large powers": "9**999 * 9**999 * 9**999",
    "products in a comprehension": "[y ** 9 for y in [9 ** 999] for k in range(9999)]",
    "padded string by another name": "[s % 1 for s in ['%999999999d']]",
    "padded string from a list": "['%999999999d'][0] % 1",
    "rounding to very many digits": "round(5, -10**9)",
    "arange without an end": "arange(0, inf)",
    "arange of tiny steps": "arange(0, 1, 1e-300)",
    "arange far away": "np.arange(0, 1e15)",
    "range backwards": "range(0, -10**18, -1)",
    "many ranges": "[range(10**6), range(10**6), range(10**6), range(10**6), range(10**6)]",
    "ranges in a comprehension": "[range(10**6) for k in range(9999)]",
    "the same list many times": "[y for y in [range(10**6)] for k in range(9999)]",
    "searches in a long list": "[-1 in y for y in [range(10**6)] for k in range(9999)]",
    "largest of a long list": "[max(y) for y in [range(10**6)] for k in range(9999)]",
    "slices of a long list": "[y[1:] for y in [range(10**6)] for k in range(9999)]",
    "comparison of lists of lists": "[[0] * 999] * 999 == [[0] * 999] * 999",
    "largest of lists of lists": "max([[0] * 999] * 999)",
    "hash of nested tuples": "{((1,) * 999,) * 999: 1}",
    "set of nested tuples": "{((1,) * 999,) * 999}",
    "steps in comprehensions": "[[[k for k in range(99)] for k in range(99)] for k in range(99)]",
    "long division": "[(9 ** 999) // 7 for k in range(9999) for m in range(9999)]",
    "many brackets": "(" * 900 + "1" + ")" * 900,
    "many lists": "[" * 900 + "]" * 900,
    "many subscripts": "epoch" + "[0]" * 600,
    "many calls": "abs(" * 390 + "1" + ")" * 390,
    "many powers": "**".join("2" * 900),
    "many conditions": "1 if epoch else " * 120 + "1",
}


@pytest.mark.parametrize(
    ("text", "epoch", "value"),
    [
        ("10 ** (-x)", 1500, 10.0**-1500),
        ("x in {-1, 2}", 2, True),
        ("(x, x) == (1, 1)", 1, True),
        ("[x, 2] == [1, 3]", 1, False),
    ],
)
def test_small_things_are_no_bombs(text: str, epoch: int, value: object) -> None:
    assert compile_expression(text)(epoch) == value


@pytest.mark.parametrize("name", [name for name in BOMBS if name != "many conditions"])
def test_a_bomb_is_refused_at_once(name: str) -> None:
    started = time.perf_counter()
    with pytest.raises(ExpressionError):
        compile_expression(BOMBS[name])(0)
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("9 ** 9 ** 9", f"more than {MAX_BITS} binary digits"),
        ("1 << 5000", f"more than {MAX_BITS} binary digits"),
        ("range(10**7)", f"more than {MAX_ITEMS} entries"),
        ("'a' * 10**9", f"more than {MAX_ITEMS} entries"),
        ("round(1, -10**6)", f"more than {MAX_BITS} digits"),
        (
            "[k + k + k for k in range(9999) for m in range(1)] + [k + k for k in range(9999)]",
            "too many elements",
        ),
        ("+".join(["len([1 for k in range(9)])"] * 60), ""),
    ],
)
def test_the_limit_is_named(text: str, limit: str) -> None:
    if not limit:
        assert compile_expression(text)(0) == 9 * 60
        return
    with pytest.raises(ExpressionError, match=limit):
        compile_expression(text)(0)


def test_the_number_of_steps_is_limited() -> None:
    evaluator = Evaluator({}, {"x": 1})
    tree = ast.parse("x + " * 300 + "x", mode="eval").body
    for _ in range(MAX_STEPS // 601):
        evaluator.eval("", tree)
    with pytest.raises(ExpressionError, match=f"more than {MAX_STEPS} steps"):
        evaluator.eval("", tree)


def test_the_indices_of_a_large_scan_can_be_computed() -> None:
    assert len(compile_expression("range(0, 3_000_000)")(0)) == 3_000_000
    assert compile_expression("[0] * 3 + list((1, 2))")(0) == [0, 0, 0, 1, 2]
    assert compile_expression("epoch in {1, 2} and {'a': 3}['a'] == 3")(1) is True
    assert compile_expression("(2 ** 4000) // 2 ** 3999")(0) == 2


def test_a_long_but_harmless_expression_is_read() -> None:
    assert compile_expression(BOMBS["many conditions"])(0) == 1
    assert compile_expression("1" + "+1" * 200)(0) == 201


def test_the_limit_of_the_length_is_told() -> None:
    assert compile_expression("1".rjust(MAX_LENGTH))(0) == 1
    with pytest.raises(ExpressionError, match=rf"{MAX_LENGTH + 1} characters.*{MAX_LENGTH}"):
        compile_expression("1".rjust(MAX_LENGTH + 1))


def test_the_message_names_the_expression_the_epoch_and_what_is_known() -> None:
    with pytest.raises(ExpressionError, match=r"'1/\(7 - epoch\)' .* epoch 7: .*Known names: .*sqrt.*epoch"):
        compile_expression("1/(7 - epoch)")(7)


def test_functions_given_to_an_expression_cannot_be_changed_by_it() -> None:
    with pytest.raises(ExpressionError):
        compile_expression("np.update({'exp': 3})")(0)
    assert compile_expression("np.exp(0)")(0) == 1.0


def test_an_expression_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    for text in ("a = 1", "1; 2", r"'\d'", "1 is 1", "print(1)"):
        with pytest.raises(ExpressionError):
            compile_expression(text)(0)
            raise ExpressionError("worked")
    assert capfd.readouterr() == ("", "")


_PIECES = st.sampled_from(
    [
        *"()[]{}.,:;*+-/%<>=!&|^~'\"\\ \n\t@_0123456789",
        *("epoch", "x", "lambda x:", "np", "np.", "if", "else", "for", "in", "not", "and", "is", "import"),
        *("__class__", "__import__", "**", "<<", "range", "list", "len", "max", "int", "exp", "True", "None"),
        *("9" * 9, "1e308", "f'{x}'", "'a'", "format", "os", "touch", "open", "eval", "exec", "lambda: "),
    ]
)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.one_of(st.text(max_size=60), st.lists(_PIECES, max_size=14).map("".join)))
@example("().__class__.__base__.__subclasses__()")
@example("__import__('pathlib').Path('executed').touch()")
@example("np.__class__")
@example("{}[0]")
@example("{[]: 1}")
@example("x.x")
@example("np.np")
def test_random_text_raises_nothing_but_expression_errors(text: str) -> None:
    before = set(os.listdir())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            compile_expression(text)(3)
        except ExpressionError as error:
            assert str(error)
    assert set(os.listdir()) == before


@pytest.mark.parametrize(
    "attack",
    [
        "__import__('pathlib').Path({0!r}).touch()",
        "().__class__.__bases__[0].__subclasses__()[0]({0!r})",
        "open({0!r}, 'w')",
        "exec('open({0!r}, chr(119))')",
        "[c for c in ().__class__.__base__.__subclasses__() if 'Popen' in c.__name__][0](['touch', {0!r}])",
        "np.exp.__globals__['__builtins__']['open']({0!r}, 'w')",
        "'{{0.__init__.__globals__}}'.format(np)",
        "(lambda: open({0!r}, 'w'))()",
    ],
)
def test_an_attack_leaves_no_trace(attack: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    with pytest.raises(ExpressionError):
        compile_expression(attack.format(str(trace)))(0)
    assert not trace.exists()


@pytest.mark.parametrize("limits", [(5,), (2, 9), (9, 2), (0, 10, 3), (10, 0, -4), (3, 3)])
def test_lengths_of_ranges_are_known_before_they_are_made(limits: tuple[int, ...]) -> None:
    for made, length in LENGTHS.items():
        assert length(*limits) == len(made(*limits))


BARE = """
import sys

# what a bare image brings, and what matplotlib and tifffile import themselves
INSTALLED = ("numpy scipy h5py matplotlib yaml tqdm tifffile  mpl_toolkits PIL dateutil six pyparsing packaging "
    "kiwisolver cycler contourpy fontTools tomli  pypty problems").split()

class Bare:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        top = name.split(".")[0]
        there = top in INSTALLED or top in sys.stdlib_module_names or top.startswith("_")
        return self.finder.find_spec(name, path, target) if there else None

sys.meta_path[:] = [Bare(finder) for finder in sys.meta_path]
import pypty
import pypty.errors
from problems import small_params

result = pypty.run(small_params(epoch_max=2, update_probe=True))
assert result.loss[-1] < result.loss[0]
assert "simpleeval" not in sys.modules
try:
    pypty.run(small_params(epoch_max=2, update_probe="lambda x: x > 0"))
except pypty.errors.ParameterError as error:
    text = str(error)
else:
    raise AssertionError("an expression was evaluated without simpleeval")
assert "lambda x: x > 0" in text and "pip install simpleeval" in text, text
"""


def test_without_an_expression_nothing_needs_simpleeval() -> None:
    """On an image with CuPy and the libraries of files and figures alone a run starts; an expression says what it
    needs."""
    done = subprocess.run(
        [sys.executable, "-c", BARE],
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
