"""The survey of a file on several ranks, each of which reads an equal run of the patterns."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import numpy as np

from pypty.data.sources import PatternSource, open_source
from pypty.data.survey import Part, part_of
from pypty.engine.ranks.recipe import to_send
from pypty.errors import DataError
from pypty.params.settings import Settings
from pypty.ranks.link import Link
from pypty.ranks.messages import FULL, Message

SURVEY = "survey"


def surveyed(
    link: Link, settings: Settings, source: PatternSource, indices: np.ndarray, **how: Any
) -> list[Part]:
    """What all ranks see, in the order of the patterns.

    Parameters
    ----------
    how : arguments of :func:`pypty.data.survey.part_of`

    Raises
    ------
    DataError
        A rank has seen what is no count.
    MemoryError
        A rank has no memory for its patterns.
    """
    runs = np.array_split(indices, link.size)
    firsts = np.cumsum([0, *map(len, runs)]).tolist()
    for rank in link.others:
        content = {
            "fixed": {**to_send(settings), "detector_mask": None},
            "indices": runs[rank],
            "how": {**how, "first": firsts[rank]},
        }
        link.send(rank, SURVEY, content)
    refused: list[DataError] = []
    parts: list[Part] = []
    try:
        parts.append(part_of(source, runs[0], **how))
    except DataError as error:
        refused.append(error)
    for rank in link.others:  # also where one has refused: all answers are awaited
        message = link.receive(rank)
        if message.kind == FULL:
            raise MemoryError(f"{link.names[rank]}: {message.content}")
        found = message.content
        if isinstance(found, str):
            refused.append(DataError(found))
        else:
            parts.append(found)
    if refused:
        raise refused[0]
    return parts


def answer_survey(link: Link, message: Message) -> None:
    """What another rank does with a message of :func:`surveyed`."""
    content = message.content
    fixed = MappingProxyType(dict(content["fixed"]))
    found: Part | str
    try:
        with link.computing():
            source = open_source(Settings(fixed, MappingProxyType({}), frozenset()))
            assert source is not None
            try:
                found = part_of(source, content["indices"], **content["how"], progress=link.progress)
            finally:
                source.close()
    except DataError as error:
        found = str(error)
    link.send(0, SURVEY, found)
