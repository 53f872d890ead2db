"""Between nested lists of ranks, as configs write them, and ranks by module name.

A backbone describes its adapted modules as nested lists of names, ``[[qkv, proj], ...]`` for each block (Swin:
``[stage][block]``); ranks have the same shape, with a number in the place of each name, or on a fused projection a
mapping from slice to number: ``[[{'q': 9, 'v': 7}, 10], ...]``.
"""

import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..fused import layout_of

Sites = Sequence['Sites | str']
Rank = int | dict[str, int]


def flatten_sites(sites: Sites) -> Iterator[str]:
    """Yield the module names of nested sites in order."""
    for site in sites:
        if isinstance(site, str):
            yield site
        else:
            yield from flatten_sites(site)


def ranks_by_module(ranks: Any, sites: Sites) -> dict[str, Rank]:
    """Return ``{module: rank}`` from one number, nested lists of the shape of ``sites``, or a mapping.

    Raises:
        ValueError: The lists do not fit the sites, a mapping names other modules, a rank is no whole number, or names
            slices that the module does not have.
    """
    if isinstance(ranks, Mapping):
        return _from_mapping(ranks, list(flatten_sites(sites)))
    if not isinstance(ranks, (list, tuple, bool)) and hasattr(ranks, '__index__'):
        return {name: _check(ranks, name, name) for name in flatten_sites(sites)}
    return dict(_walk(ranks, sites, 'lora_ranks'))


def nest_ranks(ranks: Mapping[str, Rank], sites: Sites) -> list:
    """Return nested lists of the shape of ``sites`` from ranks by module name.

    Raises:
        ValueError: The mapping lacks or exceeds the modules of the sites.
    """
    ranks = _from_mapping(ranks, list(flatten_sites(sites)))

    def nest(part: Sites | str) -> Any:
        return ranks[part] if isinstance(part, str) else [nest(p) for p in part]

    return nest(sites)


def _from_mapping(ranks: Mapping[str, Rank], names: list[str]) -> dict[str, Rank]:
    missing = [name for name in names if name not in ranks]
    extra = [name for name in ranks if name not in set(names)]
    if missing or extra:
        raise ValueError(
            f'the ranks do not fit the {len(names)} adapted modules of the backbone: {len(missing)} are missing '
            f'{missing[:3]}, {len(extra)} are unknown {extra[:3]}'
        )
    return {name: _check(ranks[name], name, name) for name in names}


def _walk(ranks: Any, sites: Sites | str, path: str) -> Iterator[tuple[str, Rank]]:
    if isinstance(sites, str):
        yield sites, _check(ranks, path, sites)
        return
    if not isinstance(ranks, (list, tuple)):
        raise ValueError(f'{path} must be a list of {len(sites)} entries, got {ranks!r}')
    if len(ranks) != len(sites):
        raise ValueError(f'{path} has {len(ranks)} entries, the backbone has {len(sites)} there: {_describe(sites)}')
    for i, (rank, site) in enumerate(zip(ranks, sites, strict=True)):
        yield from _walk(rank, site, f'{path}[{i}]')


def _describe(sites: Sites) -> str:
    names = list(flatten_sites(sites))
    return f'{names[0]} ... {names[-1]}' if len(names) > 2 else ', '.join(names)


def _check(rank: Any, where: str, module: str) -> Rank:
    if isinstance(rank, Mapping):
        layout = layout_of(module)
        if not rank or set(rank) - set(layout):
            what = f'ranks for some of its slices {layout}' if layout else 'one rank, it is no fused projection'
            raise ValueError(f'{where}: {module} takes {what}, got {dict(rank)!r}')
        return {name: _check(rank[name], f'{where}[{name!r}]', module) for name in layout if name in rank}
    if isinstance(rank, bool) or not hasattr(rank, '__index__') or rank < 0:
        raise ValueError(f'{where} must be a whole number of at least 0, got {rank!r}')
    return operator.index(rank)
