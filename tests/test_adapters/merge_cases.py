"""Merging of LoRAs: cases against definitions on dense changes, and through folders."""

import math
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn as nn

import mmlora
from mmlora.adapters.arithmetic import MERGES, merge_lora
from mmlora.adapters.lora_weights import Pair, adapt_with
from mmlora.apis import merge_adapter_folders
from mmlora.engine.base_weights import base_sha256
from mmlora.io.lora_folder import read_lora_folder, write_lora_folder
from mmlora.io.lora_names import own_names

SCALINGS = {'alpha/r': lambda rank: 8 / rank, 'rsLoRA': lambda rank: 8 / math.sqrt(rank), 'constant': lambda rank: 0.3}
RANKS = {'one rank': (2, 2, 2, 2), 'rank table': (1, 4, 3, 2)}
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
SHAPES = {('attn.qkv', 'q'): (8, 6), ('attn.qkv', 'v'): (8, 6), ('attn.proj', ''): (6, 24), ('mlp', ''): (5, 6)}
KEYS = tuple(SHAPES)
SPARSE = [name for name, merge in MERGES.items() if merge.sparse]


class Case(NamedTuple):
    """One row of the table.

    Attributes:
        group: What is shown.
        name: For which merge.
        check: Raises where it does not hold.
    """

    group: str
    name: str
    check: Callable[[], None]


class Net(nn.Module):
    """The smallest model with a fused projection and two more layers."""

    def __init__(self):
        super().__init__()
        self.attn = nn.Module()
        self.attn.qkv, self.attn.proj, self.mlp = nn.Linear(6, 24), nn.Linear(24, 6), nn.Linear(6, 5)

    def forward(self, x):
        return self.mlp(torch.tanh(self.attn.proj(torch.tanh(self.attn.qkv(x)))))


def net(seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    return Net().to(dtype).eval()


def lora(seed, ranks=RANKS['one rank'], scaling=SCALINGS['constant'], keys=KEYS, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)  # noqa: E731
    return {key: Pair(draw(r, SHAPES[key][1]), draw(SHAPES[key][0], r), scaling(r))
            for key, r in zip(SHAPES, ranks, strict=True) if key in keys}


def whole(one):
    """Return a LoRA with its fused projection as one weight, of the same change."""
    q, v = (one.get(('attn.qkv', part)) for part in 'qv')
    b, scaling = torch.zeros(24, q.rank + v.rank, dtype=q.b.dtype), q.scaling if q.scaling == v.scaling else 1.0
    b[:8, :q.rank], b[16:, q.rank:] = q.b * (q.scaling / scaling), v.b * (v.scaling / scaling)
    rest = {key: pair for key, pair in one.items() if key[0] != 'attn.qkv'}
    return {('attn.qkv', ''): Pair(torch.cat([q.a, v.a]), b, scaling), **rest}


def settings(method, **more):
    return dict(more, **(dict(density=1.0) if method in SPARSE else {}))


def same(found, wanted):
    assert list(found) == list(wanted), (list(found), list(wanted))
    for key, pair in wanted.items():
        assert found[key].scaling == pair.scaling, (key, found[key].scaling, pair.scaling)
        assert found[key].a.dtype == pair.a.dtype and torch.equal(found[key].a, pair.a), key
        assert found[key].b.dtype == pair.b.dtype and torch.equal(found[key].b, pair.b), key


def close(found, wanted, tolerance):
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


# --- one adapter with weight 1 ---------------------------------------------------------------------------------------

def identities() -> Iterator[Case]:
    for method in MERGES:
        for rule, scaling in SCALINGS.items():
            for table, ranks in RANKS.items():
                for dtype in DTYPES:
                    yield Case(
                        'one adapter with weight 1 is itself, bit for bit', f'{method}, {rule}, {table}, {dtype}',
                        lambda m=method, s=scaling, r=ranks, d=dtype: check_identity(m, lora(1, r, s, dtype=d)))


def check_identity(method, one):
    same(merge_lora([one], method, [1.0], **settings(method)), one)


def saved() -> Iterator[Case]:
    for method in MERGES:
        for rule, scaling in SCALINGS.items():
            for table, ranks in RANKS.items():
                yield Case('and it still is, saved and loaded', f'{method}, {rule}, {table}',
                           lambda m=method, s=scaling, r=ranks: check_saved(m, lora(2, r, s, dtype=torch.float32)))


def check_saved(method, one):
    plain, x = net(), torch.randn(3, 6, generator=torch.Generator().manual_seed(5))
    wanted = net()
    adapt_with(wanted, one)
    assert (wanted(x) - plain(x)).abs().max() > 0.01
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        record = dict(base=dict(sha256=base_sha256(plain)))
        write_lora_folder(folder / 'a', merge_lora([one], method, [1.0], **settings(method)), record)
        for key, pair in read_lora_folder(folder / 'a').weights.items():
            close(pair.delta(), one[key].delta(), 1e-6)
        loaded = mmlora.load_adapter(plain, folder / 'a', 'one')
        close(loaded(x), wanted(x), 1e-5)
        mmlora.save_adapter(loaded, folder / 'b', 'one')
        close(mmlora.load_adapter(net(), folder / 'b')(x), wanted(x), 1e-5)


# --- adapters that differ --------------------------------------------------------------------------------------------

DIFFER = {
    'ranks': lambda: [lora(1), lora(2, (1, 4, 3, 2)), lora(3, (3, 1, 1, 5))],
    'scalings': lambda: [lora(1, scaling=SCALINGS['alpha/r']), lora(2, (1, 4, 3, 2), SCALINGS['rsLoRA']), lora(3)],
    'layers': lambda: [lora(1, keys=KEYS[:1]), lora(2, keys=KEYS[1:]), lora(3, keys=KEYS[2:3])],
    'slices': lambda: [lora(1), whole(lora(2, scaling=SCALINGS['alpha/r'])), lora(3, scaling=SCALINGS['rsLoRA'])],
    'types': lambda: [lora(2, dtype=torch.bfloat16), lora(1), lora(3, dtype=torch.float16)],
}  # fmt: skip
WEIGHTS = {'sum': (0.5, -1.0, 2.0), 'mean': (0.5, 0.25, 1.0)}


def differing() -> Iterator[Case]:
    for method in MERGES:
        for what in DIFFER:
            for density in (1.0, 0.4) if method in SPARSE else (None,):
                yield Case('adapters that differ, against the definition', f'{method}, {what}, {density}',
                           lambda m=method, w=what, d=density: check_definition(m, w, d))


def check_definition(method, what, density):
    members = DIFFER[what]()
    weights = WEIGHTS['mean' if method in ('ties', 'dare_ties') else 'sum']
    rank = dict(rank=24) if MERGES[method].cuts else {}
    if density is not None:
        rank['density'] = density
    found = merge_lora(members, method, weights, **rank)
    if what == 'slices':
        members = [one if ('attn.qkv', '') in one else whole(one) for one in members]
    assert set(found) == {key for one in members for key in one}
    changes = [{key: pair.b.double() @ pair.a.double() * pair.scaling for key, pair in one.items()} for one in members]
    wanted = DEFINITIONS[method](members, changes, weights, density, found)
    for key, pair in found.items():
        assert pair.a.dtype == torch.float64
        close(pair.delta(), wanted[key], 1e-9)
        assert wanted[key].abs().max() > 1e-3
    adapt_with(net(dtype=torch.float64), found)


def by_layer(members, of):
    return {key: of(key, [one for one in members if key in one]) for key in {key for one in members for key in one}}


def factors(members, share_a, share_b):
    def product(key, _):
        found = [(number, one[key]) for number, one in enumerate(members) if key in one]
        rank = max(pair.rank for _, pair in found)
        a, b = 0, 0
        for number, pair in found:
            zeros = torch.zeros(rank - pair.rank, pair.a.shape[1])
            a = a + share_a(number, pair.scaling) * torch.cat([pair.a.double(), zeros.double()])
            zeros = torch.zeros(pair.b.shape[0], rank - pair.rank)
            b = b + share_b(number, pair.scaling) * torch.cat([pair.b.double(), zeros.double()], 1)
        return b @ a
    return by_layer(members, product)


def defined_factors(members, changes, weights, density, found):
    return factors(members, lambda i, s: weights[i], lambda i, s: weights[i] * s)


def defined_linear(members, changes, weights, density, found):
    root = lambda i, s: math.sqrt(abs(weights[i] * s))  # noqa: E731
    return factors(members, lambda i, s: root(i, s) * (-1 if weights[i] * s < 0 else 1), root)


def defined_sum(members, changes, weights, density, found):
    total = {}
    for one, weight in zip(changes, weights, strict=True):
        for key, change in one.items():
            total[key] = total.get(key, 0) + weight * change
    return total


def largest(changes, density):
    kept = []
    for one in changes:
        sizes = torch.cat([change.abs().flatten() for change in one.values()]).sort(descending=True).values
        floor = sizes[max(1, round(density * len(sizes))) - 1]
        kept.append({key: torch.where(change.abs() >= floor, change, 0.0) for key, change in one.items()})
    return kept


def elected(changes, weights):
    merged = {}
    for key, total in defined_sum(None, changes, weights, None, None).items():
        up, down = torch.zeros_like(total), torch.zeros_like(total)
        for one, weight in zip(changes, weights, strict=True):
            if key in one:
                agrees = (one[key] * total > 0).double()
                up, down = up + weight * agrees * one[key], down + weight * agrees
        merged[key] = up / down.clamp(min=1e-12)
    return merged


def defined_magnitude(members, changes, weights, density, found):
    return defined_sum(members, largest(changes, density), weights, None, None)


def defined_ties(members, changes, weights, density, found):
    return elected(largest(changes, density), weights)


def dropped(members, changes, weights, density, combine):
    """Drop what the method drops, as merges of each adapter alone show it; about the right part must stay."""
    if density == 1:
        return combine(changes, weights)
    kept = []
    for number, one in enumerate(members):
        one = {key: pair._replace(a=pair.a.double(), b=pair.b.double()) for key, pair in one.items()}
        none = [{key: pair._replace(b=0 * pair.b) for key, pair in one.items()}] * len(members)
        none[number] = one
        alone = merge_lora(none, 'dare', [float(i == number) for i in range(len(members))], rank=24, density=density)
        kept.append({key: alone[key].delta() for key in one})
        part = [(found / change - 1 / density).abs() < 1e-6
                for found, change in ((kept[-1][key], changes[number][key]) for key in one)]
        gone = [kept[-1][key].abs() < 1e-9 for key in one]
        assert all((stays ^ away).all() for stays, away in zip(part, gone, strict=True))
        assert 0.2 < torch.cat([stays.double().flatten() for stays in part]).mean() < 0.6
        kept[-1] = {key: torch.where(away, 0.0, kept[-1][key]) for key, away in zip(one, gone, strict=True)}
    return combine(kept, weights)


def defined_dare(members, changes, weights, density, found):
    return dropped(members, changes, weights, density, lambda c, w: defined_sum(None, c, w, None, None))


def defined_dare_ties(members, changes, weights, density, found):
    return dropped(members, changes, weights, density, elected)


DEFINITIONS = dict(
    factors=defined_factors, linear=defined_linear, change=defined_sum, sum=defined_sum, concatenate=defined_sum,
    ties=defined_ties, dare=defined_dare, dare_ties=defined_dare_ties, magnitude_prune=defined_magnitude)  # fmt: skip


def rounded() -> Iterator[Case]:
    for method in MERGES:
        for dtype in (torch.float32, torch.bfloat16):
            yield Case('factors of lower precision', f'{method}, {dtype}',
                       lambda m=method, d=dtype: check_precision(m, d))


def check_precision(method, dtype):
    members = [lora(1, dtype=dtype), lora(2, (1, 4, 3, 2), SCALINGS['alpha/r'], dtype=dtype)]
    more = settings(method, **(dict(rank=6) if MERGES[method].cuts else {}))
    found = merge_lora(members, method, [0.5, 0.25], **more)
    exact = merge_lora([{key: pair._replace(a=pair.a.double(), b=pair.b.double()) for key, pair in one.items()}
                        for one in members], method, [0.5, 0.25], **more)
    for key, pair in found.items():
        assert pair.a.dtype == pair.b.dtype == dtype
        scale = exact[key].delta().abs().max()
        off = (pair.b.double() @ pair.a.double() * pair.scaling - exact[key].delta()).abs().max() / scale
        assert off < 8 * torch.finfo(dtype).eps, float(off)


# --- folders of several libraries ------------------------------------------------------------------------------------

NAMINGS = (('hf', None), ('timm', 'hf'), ('timm', 'timm'), ('hf', 'hf'), (None, 'hf_clip'), ('open_clip', 'hf4', None))
"""Libraries under whose names the folders lie; in some of them q, k and v are layers of their own."""


def libraries() -> Iterator[Case]:
    for namings in NAMINGS:
        for method in ('change', 'ties', 'linear'):
            yield Case('folders under the names of several libraries', f'{method}, {namings}',
                       lambda m=method, n=namings: check_libraries(m, n))


def check_libraries(method, namings):
    members = [{(f'layers.1.{site}', part): pair for (site, part), pair in lora(number, dtype=torch.float32).items()
                if site == 'attn.qkv'} for number in range(len(namings))]
    wanted = merge_lora(members, method, **settings(method))
    with tempfile.TemporaryDirectory() as folder:
        folders = [Path(folder) / f'{number}' for number in range(len(namings))]
        for path, one, naming in zip(folders, members, namings, strict=True):
            write_lora_folder(path, one, dict(base=dict(sha256='same')), library=naming)
        merge_adapter_folders(folders, Path(folder) / 'out', method, **settings(method))
        found = read_lora_folder(Path(folder) / 'out')
    assert found.record.get('library') == (namings[0] if len(set(namings)) == 1 else None)
    weights = own_names(found.weights) if len(set(namings)) == 1 else found.weights
    assert set(weights) == set(wanted)
    for key, pair in wanted.items():
        close(weights[key].delta(), pair.delta(), 1e-5)


# --- a model with adapters by name -----------------------------------------------------------------------------------

def named() -> Iterator[Case]:
    for method in MERGES:
        yield Case('adapters of a model by name', method, lambda m=method: check_named(m))


def check_named(method):
    members = [lora(1, dtype=torch.float32), lora(2, (1, 4, 3, 2), dtype=torch.float32)]
    model, x = net(), torch.randn(3, 6)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for name, one in zip(('cats', 'dogs'), members, strict=True):
            write_lora_folder(folder / name, one, dict(base=dict(sha256=base_sha256(net()))))
            mmlora.load_adapter(model, folder / name, name)
        members = [read_lora_folder(folder / name).weights for name in ('cats', 'dogs')]
        before = model(x)
        more = settings(method, weights=[0.5, 0.25])
        mmlora.combine_adapters(model, ['cats', 'dogs'], 'both', method, **more)
        assert torch.equal(model(x), before)
        mmlora.set_adapter(model, 'both')
        wanted = net()
        adapt_with(wanted, merge_lora(members, method, **more))
        close(model(x), wanted(x), 1e-5)
        mmlora.set_adapter(model, ['both', 'cats', None])
        close(model(x)[0], wanted(x)[0], 1e-5)
        close(model(x)[1], before[1], 1e-5)
        mmlora.save_adapter(model, folder / 'both', 'both')
        assert read_lora_folder(folder / 'both').record['merged']['sources'] == ['cats', 'dogs']
        close(mmlora.load_adapter(net(), folder / 'both')(x), wanted(x), 1e-5)
