"""The types that the type checker sees are those that the kinds of the schema give."""

from __future__ import annotations

import sys
import types
import typing
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np
import pytest

from pypty.params import kinds, nested, settings, special_kinds
from pypty.params.reading import read_parameters
from pypty.params.report import Report
from pypty.params.schema import SCHEMA, values

FIXED = [name for name, parameter in SCHEMA.items() if not parameter.per_epoch]
PER_EPOCH = [name for name, parameter in SCHEMA.items() if parameter.per_epoch]
OF_KIND = {
    kinds.Flag: {bool},
    kinds.Switch: {bool},
    kinds.Choice: {str},
    kinds.Text: {str},
    kinds.FilePath: {str},
    special_kinds.NpyPath: {str},
    kinds.DType: {np.dtype},
    kinds.Null: {type(None)},
    kinds.Anything: {Any},
    special_kinds.SigmaPairs: {tuple},
    special_kinds.Unlimited: {type(None)},
    special_kinds.Device: {str},
    special_kinds.Devices: {str, int, tuple},
    nested.Record: {dict},
    nested.Table: {dict},
    nested.ByName: {dict},
    nested.Entries: {dict},
    nested.Words: {list},
}


def types_of(kind: kinds.Kind) -> set[Any]:
    """The types that a kind converts to; Any where one of them is."""
    if isinstance(kind, kinds.Either):
        found = {item for one in kind.kinds for item in types_of(one)}
        return {Any} if Any in found else found
    if isinstance(kind, kinds.Number):
        return ({int, float} if kind.infinite else {int}) if kind.integer else {float}
    if isinstance(kind, kinds.ArrayOf):
        return {Any} if kind.lazy else {np.ndarray}
    return OF_KIND[type(kind)]


def types_in(annotation: Any) -> set[Any]:
    """The members of a union, without what stands in brackets."""
    if get_origin(annotation) in (Union, types.UnionType):
        return {item for one in get_args(annotation) for item in types_in(one)}
    return {get_origin(annotation) or annotation}


def annotated() -> dict[str, list[Any]]:
    """The type of every fixed parameter, from each overload that names it."""
    found: dict[str, list[Any]] = {}
    for overload in typing.get_overloads(settings.Settings.__getitem__):
        hints = get_type_hints(overload)
        for name in get_args(hints["name"]):
            found.setdefault(name, []).append(hints["return"])
    return found


@pytest.mark.skipif(sys.version_info < (3, 11), reason="overloads are not kept before Python 3.11")
def test_every_fixed_parameter_has_the_type_of_its_kind() -> None:
    found = annotated()
    assert sorted(found) == sorted(FIXED)
    for name, hints in found.items():
        assert len(hints) == 1, f"{name} is in several overloads"
        assert types_in(hints[0]) == types_of(SCHEMA[name].kind), name


def test_every_per_epoch_parameter_has_the_type_of_its_kind() -> None:
    found = get_type_hints(values.EpochValues)
    assert list(found) == PER_EPOCH
    for name, hint in found.items():
        assert types_in(hint) == types_of(SCHEMA[name].kind), name


def test_defaults_have_these_types() -> None:
    checked = read_parameters({}, Report())
    now = checked.first()
    for name, parameter in SCHEMA.items():
        allowed = types_of(parameter.kind)
        value = now[name] if parameter.per_epoch else checked[name]
        assert Any in allowed or type(value) in allowed or isinstance(value, np.dtype), name
        if not parameter.per_epoch:
            assert checked.value(name) is value
