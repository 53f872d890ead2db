"""What a row of the table of layouts is: names on both sides, what a file may hold beside them, and how to tell it."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .transforms import SAME, Transform


class Template:
    """A name with places for numbers: ``'layers.{i}.ln1.weight'``, ``'stages.{s+1}.norm'``.

    Args:
        text: The name. ``{i}`` stands for a number, ``{s+1}`` for one that is larger by 1 than ``s``.
    """

    _PLACE = re.compile(r'\{(\w+)([+-]\d+)?\}')

    def __init__(self, text: str) -> None:
        self.text = text
        self._places = [(name, int(offset or 0)) for name, offset in self._PLACE.findall(text)]
        literal = [re.escape(part) for part in re.split(r'\{[^}]*\}', text)]
        self._pattern = re.compile(r'(\d+)'.join(literal))

    def match(self, name: str, known: Mapping[str, int]) -> dict[str, int] | None:
        """Return the numbers in a name, with those known beforehand, or None where it is another name."""
        found = self._pattern.fullmatch(name)
        if found is None:
            return None
        values = dict(known)
        for (place, offset), digits in zip(self._places, found.groups(), strict=True):
            if values.setdefault(place, int(digits) - offset) != int(digits) - offset:
                return None
        return values if all(value >= 0 for value in values.values()) else None

    def format(self, values: Mapping[str, int]) -> str:
        """Return the name for given numbers."""
        return self._PLACE.sub(lambda place: str(values[place[1]] + int(place[2] or 0)), self.text)


@dataclass(frozen=True)
class Rule:
    """Source names, the name in mmpretrain, and what happens to the values between them."""

    sources: tuple[Template, ...]
    target: Template
    transform: Transform


def rule(source: str | tuple[str, ...], target: str, transform: Transform = SAME) -> Rule:
    """Return a rule; several sources make one target."""
    sources = (source,) if isinstance(source, str) else source
    return Rule(tuple(map(Template, sources)), Template(target), transform)


def affine(
    names: Mapping[str, str], transform: Transform = SAME, bias: Transform = SAME
) -> tuple[Rule, ...]:
    """Return rules for the ``weight`` and the ``bias`` of layers, by their names on both sides."""
    return tuple(
        rule(f'{source}.{end}', f'{target}.{end}', change)
        for source, target in names.items()
        for end, change in (('weight', transform), ('bias', bias))
    )


def stacked(sources: Iterable[str], target: str, transform: Transform, bias: Transform) -> tuple[Rule, ...]:
    """Return rules for layers that become one, such as q, k and v."""
    sources = tuple(sources)
    return (
        rule(tuple(f'{source}.weight' for source in sources), f'{target}.weight', transform),
        rule(tuple(f'{source}.bias' for source in sources), f'{target}.bias', bias),
    )


@dataclass(frozen=True)
class Layout:
    """How one source of weights names them.

    Attributes:
        name: The name in the table and on the command line.
        title: The source, for messages.
        rules: The names on both sides.
        signs: Names that every file of this layout has and, all together, no other.
        prefixes: What may stand before the names; the first with which all signs are there is taken.
        drops: Patterns of names that a file may hold and that have no place in a backbone, and what they are.
        refuses: Patterns of names that change what the network computes and that mmpretrain has no place for, and why.
        resize: How the source library resizes position embeddings; a name in :data:`mmlora.io.resize.POSITIONS`.
        writable: Whether files of this layout can be written.
        stages: Whether blocks are in stages (Swin); the last stage is then known as ``{last}``.
    """

    name: str
    title: str
    rules: tuple[Rule, ...]
    signs: tuple[str, ...]
    prefixes: tuple[str, ...] = ('',)
    drops: Mapping[str, str] = field(default_factory=dict)
    refuses: Mapping[str, str] = field(default_factory=dict)
    resize: str = 'bicubic'
    writable: bool = True
    stages: bool = False

    def reason(self, table: Mapping[str, str], name: str) -> str | None:
        """Return what ``drops`` or ``refuses`` say of a name."""
        return next((why for pattern, why in table.items() if re.fullmatch(pattern, name)), None)


REGISTERS = 'register tokens, for which mmpretrain has no place; take the weights without registers'
