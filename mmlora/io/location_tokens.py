"""Boxes as Florence-2 writes them into text: a class name, and four location tokens for each box of the class.

``dog<loc_12><loc_40><loc_310><loc_999>`` is one box: left, top, right and bottom, in thousandths of the width and the
height of the image. A name may carry several boxes. Xiao et al., "Florence-2: Advancing a Unified Representation for a
Variety of Vision Tasks", CVPR 2024, arXiv 2311.06242.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor

BINS = 1000
"""Number of location tokens, ``<loc_0>`` to ``<loc_999>``."""

_LOCATION = re.compile(r'<loc_(\d+)>')
_OBJECT = re.compile(r'(?P<name>[^<>]+)(?P<places>(?:<loc_\d{1,9}>)+)')
_QUOTED = 120


class NamedBox(NamedTuple):
    """One box.

    Attributes:
        name: Its class.
        bins: Left, top, right, bottom, each in 0..999.
    """

    name: str
    bins: tuple[int, int, int, int]


def location_token(place: int) -> str:
    """Return the token of a bin."""
    return f'<loc_{place}>'


def read_boxes(text: str, where: str = 'the text') -> list[NamedBox]:
    """Read an annotation.

    Args:
        text: Of boxes alone; empty where an image shows none of the classes.
        where: How an error quotes the place.

    Raises:
        ValueError: Something in the text is no box, a token is outside 0..999, or a box ends before it begins.
    """
    boxes, end = [], 0
    # Not finditer, which would start anew at each character of a text that holds no box.
    while (found := _OBJECT.match(text, end)) and found['name'].strip():
        end, places = found.end(), [int(place) for place in _LOCATION.findall(found['places'])]
        outside = next((place for place in places if place >= BINS), None)
        if outside is not None:
            _fail(where, text, f'has <loc_{outside}>, where tokens go from <loc_0> to <loc_{BINS - 1}>')
        if len(places) % 4:
            _fail(where, text, f'has {len(places)} location tokens behind {found["name"]!r}, where each box has 4')
        for start in range(0, len(places), 4):
            left, top, right, bottom = places[start : start + 4]
            if right < left or bottom < top:
                _fail(where, text, f'has a box of {found["name"]!r} from ({left}, {top}) to ({right}, {bottom}), which '
                                   'ends before it begins: tokens are left, top, right, bottom')
            boxes.append(NamedBox(found['name'].strip(), (left, top, right, bottom)))
    if text[end:].strip():
        _fail(where, text, f'has {text[end:][:_QUOTED]!r}, where <class name> and 4 tokens <loc_...> for each box '
                           'belong')
    return boxes


def write_boxes(boxes: Iterable[NamedBox]) -> str:
    """Return boxes as text, each with its name."""
    return ''.join(box.name + ''.join(map(location_token, box.bins)) for box in boxes)


def keep_classes(boxes: Iterable[NamedBox], classes: Collection[str]) -> list[NamedBox]:
    """Return the boxes of some classes; names count as a whole, so that ``'dog'`` does not mean ``'hotdog'``."""
    return [box for box in boxes if box.name in classes]


def box_pixels(bins: Sequence[Sequence[int]], height: int, width: int) -> Tensor:
    """Return boxes in pixels of an image, the middles of their bins, ``(n, 4)`` float64: left, top, right, bottom."""
    size = torch.tensor([width, height, width, height], dtype=torch.float64)
    return (torch.tensor(bins, dtype=torch.float64).reshape(-1, 4) + 0.5) * size / BINS


def _fail(where: str, text: str, what: str) -> NoReturn:
    raise ValueError(f'{where}: {text[:_QUOTED]!r}{"..." if len(text) > _QUOTED else ""} {what}')
