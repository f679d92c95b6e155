"""Inputs that a fuzzer makes: parameters, YAML, expressions and damaged files; and a guard that measures their cost."""

from __future__ import annotations

import contextlib
import math
import resource
import shutil
import signal
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from hypothesis import strategies as st

from pypty.errors import PyptyError
from pypty.params.expressions import FUNCTIONS
from pypty.params.schema import SCHEMA

SECONDS, BYTES = 5.0, 2**30


class TooSlow(BaseException):
    """The time is over; not an Exception, so that no handler of the package can take it for damage."""


def _stop(*_: object) -> None:
    raise TooSlow(f"more than {SECONDS} s")


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Let a PyptyError pass for a good answer, and fail for any other, after 5 s, and where 1 GB is not enough.

    The address space of the process is limited to 1 GB more than it has: whoever asks for more gets a MemoryError,
    which is searched for in the causes of the error, too.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    old = signal.signal(signal.SIGALRM, _stop)
    resource.setrlimit(resource.RLIMIT_AS, (_address_space() + BYTES, hard))
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    started = time.perf_counter()
    try:
        yield
    except TooSlow as error:
        raise AssertionError(str(error)) from error  # hypothesis names the input
    except PyptyError as error:
        assert str(error), "an error without a message"
        wanted_more = [cause for cause in _causes(error) if isinstance(cause, MemoryError)]
        assert not wanted_more, f"it asked for more than {BYTES} bytes: {wanted_more}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert time.perf_counter() - started < SECONDS


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The errors behind a PyptyError, but for those that say themselves that memory is short."""
    here: BaseException | None = error
    while here is not None:
        here = here.__cause__ or here.__context__
        if here is not None and not isinstance(here, PyptyError):
            yield here


# --------------------------------------------------------------------------------------------------------- values

_TEXTS = st.one_of(
    st.sampled_from(
        ["", "auto", "all", "nan", "lambda x: x", "lambda x: 1/x", "a.npy", "nowhere.h5", "\0", "é" * 300]
    ),
    st.text(max_size=20),
)
_NUMBERS = st.one_of(
    st.sampled_from(
        [
            0,
            1,
            -1,
            2,
            0.5,
            -0.5,
            math.nan,
            math.inf,
            -math.inf,
            1e-300,
            1e300,
            10**30,
            -(10**30),
            10**400,
            2**62,
        ]
    ),
    st.integers(-100, 100),
    st.integers(),
    st.floats(),
    st.complex_numbers(),
)
_DTYPES = st.sampled_from(
    ["f8", "f4", "f2", "i8", "u1", "?", "c16", "c8", "O", "U3", "S2", "M8[s]", ">f8", "f8,i4"]
)


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    """Arrays of odd shapes and types, with odd values."""
    shape = tuple(draw(st.lists(st.sampled_from([0, 1, 2, 3, 6, 16, 24, 25]), max_size=5)))
    if math.prod(shape) > 20_000:
        shape = shape[:2]
    dtype = np.dtype(draw(_DTYPES))
    array = np.zeros(shape, dtype)
    if dtype.kind in "fc" and array.size:
        array[...] = draw(st.sampled_from([0.0, 1.0, -1.0, 1e30, math.nan, math.inf]))
        array.flat[0] = draw(st.sampled_from([0.0, 1.0, -1e9, math.nan]))
    elif dtype.kind in "iu" and array.size:
        array[...] = draw(st.sampled_from([0, 1, 3, 24]))
    return array


PLAIN = st.one_of(st.none(), st.booleans(), _NUMBERS, _TEXTS)
ANY = st.one_of(
    PLAIN,
    arrays(),
    st.recursive(
        PLAIN,
        lambda inner: st.one_of(
            st.lists(inner, max_size=4), st.tuples(inner, inner), st.dictionaries(_TEXTS, inner, max_size=3)
        ),
        max_leaves=8,
    ),
    st.sampled_from(
        [
            print,
            lambda epoch: epoch,
            lambda: 1,
            lambda epoch: [epoch] * 3,
            int,
            object(),
            {1, 2},
            b"bytes",
            Path("a.npy"),
        ]
    ),
    st.builds(
        lambda table, until: {"from_epoch": table, "until_epoch": until},
        st.dictionaries(_NUMBERS, PLAIN),
        PLAIN,
    ),
)


def nested_choice(name: str) -> st.SearchStrategy[Any]:
    """Values near to good ones: the default, and dicts with its keys."""
    default = SCHEMA[name].default
    good = st.just(default) if not isinstance(default, np.ndarray) else st.just(default.copy())
    return st.one_of(ANY, good, expressions())


@st.composite
def parameters(draw: st.DrawFn) -> dict[Any, Any]:
    """Changes of a good parameter dict."""
    names = draw(st.lists(st.sampled_from(sorted(SCHEMA)), min_size=1, max_size=4, unique=True))
    changes: dict[Any, Any] = {name: draw(nested_choice(name)) for name in names}
    if draw(st.integers(0, 9)) == 0:
        changes.update(
            draw(st.dictionaries(st.one_of(_TEXTS, PLAIN.filter(lambda x: x == x)), PLAIN, max_size=3))
        )
    return changes


# ----------------------------------------------------------------------------------------------------- expressions

_ATOMS = st.one_of(
    st.sampled_from(
        ["x", "epoch", "k", "np", "np.pi", "inf", "True", "None", "[]", "()", "{}", "''", "'%99999999d'"]
    ),
    st.sampled_from(
        ["'a'", "[0]", "range(10**6)", "9**99", "10**9", "-1", "2.5", "1e308", "1j", "b'a'", "{1: [2]}"]
    ),
    st.integers(-(10**12), 10**12).map(str),
    st.floats().map(repr),
)


def _grow(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    two = st.tuples(inner, inner)
    operators = [
        "+",
        "-",
        "*",
        "/",
        "//",
        "%",
        "**",
        "<<",
        ">>",
        "&",
        "|",
        "^",
        "@",
        "==",
        "<",
        "in",
        "not in",
        "is",
    ]
    operators += ["and", "or", "if 1 else", ":=", ","]
    functions = st.sampled_from(
        [*FUNCTIONS, *(f"np.{name}" for name in FUNCTIONS), "str", "dict", "set", "sum"]
    )
    return st.one_of(
        st.tuples(st.sampled_from(operators), two).map(lambda t: f"({t[1][0]} {t[0]} {t[1][1]})"),
        st.tuples(functions, st.lists(inner, max_size=3)).map(lambda t: f"{t[0]}({', '.join(t[1])})"),
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        st.lists(inner, max_size=3).map(lambda items: f"({', '.join(items)},)"),
        two.map(lambda t: f"[{t[0]} for k in {t[1]}]"),
        st.tuples(inner, inner, inner).map(lambda t: f"[{t[0]} for k in {t[1]} for x in {t[2]} if k]"),
        two.map(lambda t: f"{t[0]}[{t[1]}]"),
        two.map(lambda t: f"{t[0]}[{t[1]}:]"),
        two.map(lambda t: f"{{{t[0]}: {t[1]}}}"),
        inner.map(lambda text: f"-{text}"),
        inner.map(lambda text: f"not {text}"),
        inner.map(lambda text: f"f'{{{text}}}'"),
        inner.map(lambda text: f"{text}.real"),
        inner.map(lambda text: f"(lambda y: {text})(1)"),
    )


def expressions() -> st.SearchStrategy[str]:
    """Texts by the grammar of expressions, most of which have no good value."""
    return st.tuples(
        st.sampled_from(["", "lambda x: ", "lambda k: "]), st.recursive(_ATOMS, _grow, max_leaves=12)
    ).map("".join)


# ------------------------------------------------------------------------------------------------------------ YAML

_KEYS = st.one_of(
    st.sampled_from(sorted(SCHEMA)), st.sampled_from(["zzz", "init_params", "1", "<<", "? a", "''"])
)
_SCALARS = st.one_of(
    st.sampled_from(
        ["1", "1e-3", "0x1f", "1:2:3", "~", "yes", ".nan", ".inf", "2026-13-45", "!!int ''", "!!float a"]
    ),
    st.sampled_from(
        ["!!binary a", "!!set {a}", "!!omap [a]", "!!timestamp a", "!!python/name:os.system", "*a", "&a b"]
    ),
    st.sampled_from(
        ["[*a, *a, *a]", "{file: a.npy}", "{file: /dev/zero}", "{callable: f}", "[[[[", "}", "'", "9" * 5000]
    ),
    st.text(max_size=12),
    st.integers().map(str),
)


def yaml_texts() -> st.SearchStrategy[str]:
    """Lines of a parameter file, with anchors and aliases."""
    line = st.tuples(_KEYS, st.sampled_from([": ", ": &a ", ":\n  - ", ":\n  b: ", " "]), _SCALARS).map(
        "".join
    )
    laughs = st.tuples(st.integers(1, 12), st.integers(1, 12)).map(lambda t: _laughs(*t))
    return st.one_of(st.lists(line, max_size=6).map("\n".join), laughs, st.text(max_size=80))


def _laughs(levels: int, width: int) -> str:
    lines = ["positions: &l0 [1.0, 2.0]"]
    lines += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * width)}]" for n in range(1, levels + 1)]
    return "\n".join([*lines, f"obj: *l{levels}"])


# ----------------------------------------------------------------------------------------------------------- damage

_NUMBERS_IN_HEADERS = (
    0,
    1,
    2,
    127,
    128,
    255,
    2**15,
    2**16 - 1,
    2**31 - 1,
    2**32 - 1,
    10**9,
    10**12,
    2**62,
    2**64 - 1,
)
_PIECE = st.tuples(
    st.sampled_from(["cut", "flip", "flip", "number", "number", "insert", "delete", "repeat", "zero"]),
    st.one_of(st.floats(0, 1, exclude_max=True), st.floats(0, 0.05), st.floats(0, 0.01)),
    st.sampled_from(_NUMBERS_IN_HEADERS),
    st.integers(0, 255),
)


@dataclass(frozen=True)
class Damage:
    """Changes of the bytes of a file, and of the items of an HDF5 file."""

    pieces: tuple[tuple[str, float, int, int], ...]
    items: tuple[tuple[float, str, Any], ...] = ()

    def of(self, content: bytes) -> bytes:
        data = bytearray(content)
        for kind, place, number, byte in self.pieces:
            at = int(place * len(data))
            if kind == "cut":
                del data[at:]
            elif kind == "flip" and data:
                data[at] ^= 1 << byte % 8
            elif kind == "number":
                width = (1, 2, 4, 8)[byte % 4]
                order = "<" if byte & 4 else ">"
                data[at : at + width] = (
                    struct.pack(f"{order}Q", number)[-width:]
                    if order == ">"
                    else struct.pack("<Q", number)[:width]
                )
            elif kind == "insert":
                data[at:at] = bytes([byte]) * min(number, 64)
            elif kind == "delete":
                del data[at : at + min(number, 64)]
            elif kind == "repeat":
                data[at:at] = data[at : at + min(number, 512)]
            elif kind == "zero":
                data[at : at + 64] = bytes(min(64, len(data) - at))
        return bytes(data)

    def in_items(self, path: Path) -> None:
        """Change items of an HDF5 file."""
        with h5py.File(path, "r+") as file:
            for place, kind, value in self.items:
                names: list[str] = []
                file.visit(names.append)
                name = sorted(names)[int(place * len(names))] if names else "/"
                with contextlib.suppress(Exception):  # HDF5 cannot hold every value
                    _change(file, name, kind, value)


def _change(file: h5py.File, name: str, kind: str, value: Any) -> None:
    item = file[name]
    if isinstance(item, h5py.Dataset) and item.shape is not None and item.size > _LARGEST_ITEM:
        return  # one that "huge" made
    if kind == "attribute":
        holder = item if item.attrs else file
        names = sorted(holder.attrs)
        if names:
            holder.attrs[names[len(name) % len(names)]] = value
        return
    if kind == "values" and isinstance(item, h5py.Dataset):
        if item.dtype.kind in "fc":
            item[...] = value if isinstance(value, float) else math.nan
        return
    old = item[()] if isinstance(item, h5py.Dataset) else None
    del file[name]
    if kind == "flat" and old is not None:
        file[name] = np.ravel(old)[:-1]
    elif kind == "axes" and old is not None:
        file[name] = np.asarray(old)[None]
    elif kind == "type" and old is not None:
        file[name] = np.asarray(old).astype("S8" if isinstance(value, str) else "i2")
    elif kind == "replace":
        file[name] = value
    elif kind == "group":
        file.create_group(name)
    elif kind == "loop":
        file[name] = file["/"]
    elif kind == "link":
        file[name] = h5py.ExternalLink("nowhere.h5", "/data")
    elif kind == "huge":
        file.create_dataset(name, (10**6, 10**5, 10**4), "f8", chunks=(1, 10, 10))


_LARGEST_ITEM = 10**6
_ITEM_KINDS = (
    "remove",
    "attribute",
    "values",
    "flat",
    "axes",
    "type",
    "replace",
    "group",
    "loop",
    "link",
    "huge",
)
_ITEM_VALUES = st.one_of(
    st.sampled_from(
        [0, -1, 1.5, math.nan, math.inf, 1e300, 2**63 - 1, "", "text", "[1]", "{}", "null", '{"a": 1}']
    ),
    st.sampled_from([[1.0, 2.0], [[1]], [math.nan] * 4, h5py.Empty("f"), b"\xff"]),
)


def damages(hdf5: bool) -> st.SearchStrategy[Damage]:
    """Damage to the bytes; for an HDF5 file half of the time to its items."""
    by_bytes = st.lists(_PIECE, min_size=1, max_size=4).map(lambda pieces: Damage(tuple(pieces)))
    if not hdf5:
        return by_bytes
    change = st.tuples(st.floats(0, 1, exclude_max=True), st.sampled_from(_ITEM_KINDS), _ITEM_VALUES)
    by_items = st.lists(change, min_size=1, max_size=3).map(lambda items: Damage((), tuple(items)))
    return st.one_of(by_bytes, by_items)


def spoil(good: Path, at: Path, damage: Damage, inner: str = "") -> Path:
    """A copy of a file or folder with damage; ``inner`` names the file of a folder."""
    if at.is_dir():
        shutil.rmtree(at)
    if good.is_dir():
        shutil.copytree(good, at)
        target = at / inner
    else:
        at.unlink(missing_ok=True)  # a reader may still have the last one open
        shutil.copyfile(good, at)
        target = at
    if damage.items:
        damage.in_items(target)
    else:
        target.write_bytes(damage.of(target.read_bytes()))
    return at


def spoiled_text(content: str, damage: Damage) -> str:
    """Damaged text, as far as it is text."""
    return damage.of(content.encode()).decode("utf-8", "replace")


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes
    ----------
    file : its name
    make : writes a good file or folder to a path
    read : reads it as the package does
    inner : of a folder, the file that is damaged
    """

    name: str
    file: str
    make: Callable[[Path], object]
    read: Callable[[Path], object]
    inner: str = ""

    @property
    def is_hdf5(self) -> bool:
        return (self.inner or self.file).endswith((".h5", ".hdf5", ".nxs", ".hspy", ".73.mat"))
