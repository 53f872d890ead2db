"""A hub: many LoRAs over one frozen backbone, each with its head and classes.

::

    HUB/
        index.json           what the hub says of itself, and what each member says, in the order of their numbers
        00000/ 00001/ ...    members: folders of a LoRA (:mod:`mmlora.io.lora_folder`)

The members are written first, each whole; the index is replaced in one step after them. A hub opens only if its members
agree in what makes them work together: the frozen weights, the preparation of images, the size of features and, unless
the index says that they are mixed, the rank.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import assets
from ..adapters.lora_weights import LoRAWeights
from .atomic import write_text
from .json_object import read_object
from .lora_folder import DAMAGED, RECORD, Head, LoRAFolder, read_lora_folder, read_record

INDEX = 'index.json'
FORMAT = 'mmlora hub 1'
FIELDS = {'classes': list, 'class_ids': list, 'task': dict, 'normalization': dict, 'base': dict, 'metrics': dict}
"""What the record of a member must hold beside that of a folder of a LoRA, and of which type."""

SHARED: dict[str, str] = {
    'base': 'the frozen weights', 'normalization': 'the preparation of images', 'features': 'the size of features'}
"""Fields in which all members must agree, and what they say."""

_NAME = re.compile(r'\d{5,}')
_OWN = 'mmlora://'


def member_name(number: int) -> str:
    """Return the name of the folder of a member."""
    return f'{number:05d}'


def hub_folder(name: str | os.PathLike) -> Path:
    """Return where a hub lies, given as a folder or as ``mmlora://NAME``, one that the package brings."""
    text = os.fspath(name)
    return assets.hub(text.removeprefix(_OWN)) if text.startswith(_OWN) else Path(text).expanduser()


@dataclass(frozen=True)
class LoRAHub:
    """A hub that was opened.

    Attributes:
        folder: Where it lies.
        about: What the index says of the whole hub.
        records: What each member says, by its name and in the order of the names.
    """

    folder: Path
    about: Mapping[str, Any]
    records: Mapping[str, Mapping[str, Any]]

    @classmethod
    def open(cls, folder: str | os.PathLike) -> 'LoRAHub':
        """Open a hub and check that its members agree; no weights are read.

        Args:
            folder: Where it lies; ``mmlora://hub_vit-micro_glyphs-5way`` is one that the package brings.

        Raises:
            FileNotFoundError: There is no hub, or a member is missing.
            ValueError: The index or a member is damaged, a member has changed since the index was written, or members
                disagree; both values are quoted and the member is named.
        """
        folder = hub_folder(folder)
        if not (folder / INDEX).is_file():
            raise FileNotFoundError(f'{str(folder)!r} is no hub: it has no {INDEX}{_hint(folder)}')
        content = read_object(folder / INDEX, DAMAGED)
        if content.get('format') != FORMAT or not isinstance(content.get('members'), dict):
            raise ValueError(f'{folder / INDEX} has format={content.get("format")!r}, where {FORMAT!r} is expected')
        for name, known in content['members'].items():
            if not _NAME.fullmatch(name):  # A name such as '../other' would lead out of the hub.
                raise ValueError(f'{folder / INDEX} names the member {name!r}: members are folders with a number of '
                                 'five digits or more; write the index anew with mmlora.io.hub.write_index')
            if not isinstance(known, dict):
                raise ValueError(f'{folder / INDEX} has the member {name!r} as {str(known)[:100]!r}, where an object '
                                 'belongs: write the index anew with mmlora.io.hub.write_index')
            if not (folder / name / RECORD).is_file():
                raise FileNotFoundError(f'{folder / INDEX} names the member {name!r}, which has no {RECORD}: copy the '
                                        'hub again, or write its index anew with mmlora.io.hub.write_index')
            record = read_record(folder / name)
            if record != known:
                changed = sorted(key for key in {*record, *known} if record.get(key) != known.get(key))
                raise ValueError(f'member {name!r} of {folder} has changed since the index was written, in {changed}: '
                                 'write it anew with mmlora.io.hub.write_index')
        about = {key: value for key, value in content.items() if key not in ('format', 'members')}
        check_members(content['members'], bool(about.get('mixed_ranks')), str(folder))
        return cls(folder, about, content['members'])

    def __len__(self) -> int:
        """Return the number of members."""
        return len(self.records)

    def __iter__(self) -> Iterator[str]:
        """Go through the names of the members."""
        return iter(self.records)

    def __getitem__(self, member: int | str) -> LoRAFolder:
        """Read a member, by name or by its place.

        Raises:
            KeyError: There is no such name.
            IndexError: There is no such place.
            ValueError: A file of it is damaged or was changed.
        """
        return read_lora_folder(self.folder / self.name_of(member))

    def name_of(self, member: int | str) -> str:
        """Return the name of a member that is given by name or by its place.

        Raises:
            KeyError: There is no such name.
            IndexError: There is no such place.
        """
        if isinstance(member, str):
            if member not in self.records:
                raise KeyError(f'{self.folder} has no member {member!r}, it has {_some(self.records)}')
            return member
        if not 0 <= member < len(self):
            raise IndexError(f'{self.folder} has the members 0..{len(self) - 1}, got {member}')
        return list(self.records)[member]

    def adapters(self, members: Sequence[int | str] | None = None) -> list[LoRAWeights]:
        """Read the LoRAs of some members, or of all: what :func:`mmlora.adapters.attach_bank` takes."""
        return [self[member].weights for member in (self if members is None else members)]

    def head(self, member: int | str) -> Head:
        """Read the head of a member.

        Raises:
            ValueError: It has none.
        """
        found = self[member]
        if found.head is None:
            raise ValueError(f'member {self.name_of(member)!r} of {self.folder} has no head')
        return found.head

    def classes(self, member: int | str) -> list[str]:
        """Return the names of the classes of a member, in the order of the outputs of its head."""
        return list(self.records[self.name_of(member)]['classes'])

    @property
    def normalization(self) -> Mapping[str, Any]:
        """How images are prepared: mean and std in 0..255, and whether channels are turned to RGB."""
        return next(iter(self.records.values()))['normalization']

    @property
    def base_sha256(self) -> str | None:
        """Hash of the frozen weights, or None where it is not known."""
        return next(iter(self.records.values()))['base'].get('sha256')

    def digest(self, member: int | str) -> str:
        """Return a hash of all files of a member, as its record has them."""
        files = self.records[self.name_of(member)]['files']
        return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()

    def check_base(self, sha256: str, what: str = 'the backbone') -> None:
        """Check that weights are those on which the members stand.

        Raises:
            ValueError: They are others; both hashes are quoted.
        """
        if self.base_sha256 is not None and self.base_sha256 != sha256:
            base = next(iter(self.records.values()))['base']
            raise ValueError(f'the LoRAs of {self.folder} stand on weights with the sha256 {self.base_sha256} '
                             f'({base.get("name")}), those of {what} have {sha256}: load the weights of the hub')


def member_records(folder: str | os.PathLike) -> dict[str, dict[str, Any]]:
    """Return what the members in a folder say, those that are whole, in the order of their names."""
    folder = Path(folder)
    names = sorted((p.name for p in folder.iterdir() if _NAME.fullmatch(p.name)), key=int) if folder.is_dir() else []
    return {name: read_record(folder / name) for name in names if (folder / name / RECORD).is_file()}


def write_index(folder: str | os.PathLike, mixed_ranks: bool = False, **about: Any) -> LoRAHub:
    """Write the index of the members that are in a folder, and open the hub.

    Args:
        folder: The hub.
        mixed_ranks: Whether members may differ in their ranks.
        **about: What else the index says of the whole hub, as plain data.

    Raises:
        ValueError: There is no member, or members disagree: nothing is written then.
    """
    folder, records = Path(folder), member_records(folder)
    check_members(records, mixed_ranks, str(folder))
    content = dict(format=FORMAT, mixed_ranks=mixed_ranks, **about, members=records)
    write_text(folder / INDEX, json.dumps(content, indent=1, allow_nan=False) + '\n')
    return LoRAHub.open(folder)


def check_members(records: Mapping[str, Mapping[str, Any]], mixed_ranks: bool = False, where: str = 'the hub') -> None:
    """Check that members can work together.

    Raises:
        ValueError: There is none, one lacks a field, or two disagree; both values are quoted and the member is named.
    """
    if not records:
        raise ValueError(f'{where} has no member that is whole')
    first = next(iter(records))
    for name, record in records.items():
        for field, kind in FIELDS.items():
            if not isinstance(record.get(field), kind):
                raise ValueError(f'member {name!r} of {where} has {field}={record.get(field)!r}, which must be of the '
                                 f'type {kind.__name__}')
        outputs = (record.get('head') or [len(record['classes'])])[0]
        if not len(record['classes']) == len(record['class_ids']) == outputs:
            raise ValueError(f'member {name!r} of {where} names {len(record["classes"])} classes and '
                             f'{len(record["class_ids"])} of their numbers for a head of {outputs}')
        for field, what in SHARED.items():
            _check_same(field, what, name, record, first, records[first], where)
        if not mixed_ranks:
            _check_same('slices', 'the rank', name, record, first, records[first], where)


def _check_same(
    field: str, what: str, name: str, record: Mapping[str, Any], first: str, other: Mapping[str, Any], where: str
) -> None:
    own, wanted = (_key_of(field, r) for r in (record, other))
    if own != wanted:
        more = ': a hub of several ranks says mixed_ranks=True' if field == 'slices' else ''
        raise ValueError(f'member {name!r} of {where} differs in {what}: it has {own!r}, member {first!r} has '
                         f'{wanted!r}{more}')


def _key_of(field: str, record: Mapping[str, Any]) -> Any:
    if field == 'base':
        return record['base'].get('sha256')
    if field == 'features':
        return (record.get('head') or [None, None])[1]
    if field == 'slices' and len({str(parts) for parts in record['slices'].values()}) == 1:
        return next(iter(record['slices'].values()))
    return record.get(field)


def _some(names: Mapping[str, Any]) -> str:
    listed = list(names)
    return ', '.join(listed[:3]) + (f' ... {listed[-1]}' if len(listed) > 3 else '')


def _hint(folder: Path) -> str:
    if not folder.is_dir():
        return ', the folder does not exist'
    members = member_records(folder)
    return f', but {len(members)} members: go on with the command that was writing it' if members else ''
