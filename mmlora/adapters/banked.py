"""A frozen model with K LoRAs at once, and back: banks in the place of its linear layers, and one route for them.

::

    attach_bank(backbone, adapters)               # LoRAs of read_lora, or fresh ones of draw_lora
    with route(backbone, [0, 2, 2, -1]):          # which sample of the batch uses which; -1 uses none
        features = backbone(images)               # of shape (4, 3, H, W)
    detach_bank(backbone)                         # the plain layers, as they were
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
import torch.nn as nn
from torch import Tensor

from ..fused import layout_of
from .adapted import learned_dtype, replace_module
from .bank import LoRABank
from .lora_weights import LoRAWeights, Pair, by_site, check_pair, check_site
from .route import Route
from .sites import is_among

WINDOWED = {('mmpretrain.models.utils.attention.WindowMSA', child) for child in ('qkv', 'proj')}
"""(class, child): layers that see the windows of each image one behind the other, image by image."""


def attach_bank(
    model: nn.Module,
    adapters: Sequence[Mapping[tuple[str, str], Pair]],
    room: int | None = None,
    lora_dtype: torch.dtype | None = None,
) -> dict[str, LoRABank]:
    """Give a plain model K LoRAs at once, in place. Nothing is changed if one does not fit.

    Everything else of the model stays as it is: freeze it with :func:`mmlora.adapters.freeze` to train the bank. The
    layers get no adapter where none of the LoRAs has one.

    Args:
        model: Its layers are plain; samples are the first axis of what they see, or windows of samples in Swin.
        adapters: K of them, each as of :func:`mmlora.adapters.read_lora`. Layers, slices, ranks, scalings may differ.
        room: A rank that each slice has room for at least, for adapters that :func:`put_adapter` takes in later.
        lora_dtype: Type of the factors. By default float32 over a half-precision base, else that of the base.

    Returns:
        The banks by name.

    Raises:
        ValueError: There is no adapter, or one does not fit a layer.
        AttributeError: The model has no layer of a name.
        TypeError: A layer is adapted already or is no plain linear layer.
    """
    if not adapters:
        raise ValueError('a bank needs at least one adapter')
    made = {site: _make_bank(model, site, parts, len(adapters), room or 0, lora_dtype)
            for site, parts in _largest_ranks(model, adapters).items()}
    for site, bank in made.items():
        for k, adapter in enumerate(adapters):
            bank.put(k, {part: pair for (own, part), pair in adapter.items() if own == site})
        bank.plain = [model.get_submodule(site)]  # In a list: a module would be a child, with keys of its own.
        replace_module(model, bank.plain[0], bank)
    return made


def detach_bank(model: nn.Module) -> int:
    """Put the plain layers back that banks stand for, and return how many. The factors are gone afterwards."""
    banks = find_banks(model)
    for bank in banks.values():
        bank.unmerge()
        linear, learns = bank.plain[0], bank.plain_learns
        linear.weight, linear.bias = bank.weight, bank.bias
        for parameter, flag in zip((linear.weight, linear.bias), learns, strict=True):
            if parameter is not None:
                parameter.requires_grad_(flag)
        replace_module(model, bank, linear.train(bank.training))
    return len(banks)


def find_banks(model: nn.Module) -> dict[str, LoRABank]:
    """Return the banks of a model by name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, LoRABank)}


@contextmanager
def route(model: nn.Module, indices: int | Sequence[int] | Tensor) -> Iterator[None]:
    """Say within a ``with`` block which sample of a batch uses which adapter.

    Args:
        model: Has banks.
        indices: ``(B,)`` numbers of adapters, -1 for none; or one number for all samples.

    Raises:
        ValueError: The model has no bank, one is merged, or a number is out of range.
        TypeError: The indices are no whole numbers.
    """
    banks = list(find_banks(model).values())
    if not banks:
        raise ValueError('the model has no bank: call attach_bank first')
    check_unmerged(model)
    with routed(banks, indices):
        yield


@contextmanager
def routed(banks: Sequence[LoRABank], indices: int | Sequence[int] | Tensor) -> Iterator[None]:
    """Do what :func:`route` does with the banks of a model, for who has found them: that takes a walk over the model.

    Args:
        banks: All of the model, at least one, none of them merged.
        indices: As for :func:`route`.

    Raises:
        ValueError: A number is out of range.
        TypeError: The indices are no whole numbers.
    """
    before = [bank.route for bank in banks]
    chosen = Route(indices, len(banks[0]))
    try:
        for bank in banks:
            bank.route = chosen
        yield
    finally:
        for bank, old in zip(banks, before, strict=True):
            bank.route = old


def check_unmerged(model: nn.Module) -> None:
    """Check that no bank is merged: its weight holds the adapter that was in use then.

    Raises:
        ValueError: One is; it is named.
    """
    merged = [name for name, bank in find_banks(model).items() if bank.merged]
    if merged:
        raise ValueError(f'{merged[0]} is merged, its weight holds an adapter: call unmerge_adapters(model) first')


def take_adapter(model: nn.Module, k: int) -> LoRAWeights:
    """Return a copy of an adapter of a model with banks.

    Raises:
        IndexError: There is no such adapter.
        ValueError: The model has no bank.
    """
    banks = find_banks(model)
    if not banks:
        raise ValueError('the model has no bank: call attach_bank first')
    return {(site, part): Pair(pair.a.clone(), pair.b.clone(), pair.scaling)
            for site, bank in banks.items() for part, pair in bank.pairs(k).items()}


def put_adapter(model: nn.Module, k: int, adapter: Mapping[tuple[str, str], Pair]) -> None:
    """Replace an adapter of a model with banks; what it lacks becomes rank 0.

    Raises:
        IndexError: There is no such adapter.
        ValueError: It has a layer without a bank, or a shape or rank does not fit; nothing is changed then.
    """
    banks, sites = find_banks(model), by_site(adapter)
    _check_room(banks, sites)
    for site, bank in banks.items():
        bank.put(k, sites.get(site, {}))


def append_adapter(model: nn.Module, adapter: Mapping[tuple[str, str], Pair]) -> int:
    """Give a model with banks one more adapter and return its number; routes of before are not valid any more.

    Raises:
        ValueError: The model has no bank, the adapter has a layer without one, or a shape or rank does not fit; nothing
            is changed then.
    """
    banks, sites = find_banks(model), by_site(adapter)
    if not banks:
        raise ValueError('the model has no bank: call attach_bank first')
    _check_room(banks, sites)
    for site, bank in banks.items():
        bank.grow()
        bank.put(len(bank) - 1, sites.get(site, {}))
        bank.route = None
    return len(bank) - 1


def _check_room(banks: Mapping[str, LoRABank], sites: Mapping[str, Mapping[str, Pair]]) -> None:
    foreign = sorted(set(sites) - set(banks))
    if foreign:
        raise ValueError(f'the model has no bank in {foreign[:5]}, which the adapter changes')
    for site, bank in banks.items():
        try:
            bank.check(sites.get(site, {}))
        except ValueError as error:
            raise ValueError(f'{site}: {error}') from error


class Member:
    """One adapter of a model with banks as Parameters of its own, in the memory of the banks.

    An optimizer over them changes the banks, and nothing but this adapter. So each of K tasks has an optimizer, a
    schedule and a clipping of its own, of any kind, while forward and backward passes are shared::

        loss.backward()                # the sum of the means of the tasks
        member.take_gradients()
        optimizer.step()               # torch.optim.Adam(member.parameters.values())

    Valid until the banks are moved to another device or type, or the adapter is replaced by one of another rank.

    Args:
        model: Has banks.
        k: Number of the adapter.

    Attributes:
        parameters: By the names that they have in an ordinary model, ``'layers.0.attn.qkv.lora_A_q'``.

    Raises:
        ValueError: The model has no bank.
        IndexError: There is no such adapter.
    """

    def __init__(self, model: nn.Module, k: int) -> None:
        self.parameters: dict[str, nn.Parameter] = {}
        self._sources: list[tuple[nn.Parameter, nn.Parameter, tuple]] = []
        for site, bank in find_banks(model).items():
            for part, pair in bank.pairs(k).items():
                cuts = ((k, slice(pair.rank)), (k, slice(None), slice(pair.rank)))
                for letter, tensor, view, cut in zip('AB', bank.tensors(part), pair[:2], cuts, strict=True):
                    own = nn.Parameter(view)
                    self.parameters[f'{site}.lora_{letter}{"_" if part else ""}{part}'] = own
                    self._sources.append((own, tensor, cut))
        if not self._sources:
            raise ValueError(f'adapter {k} has no factors in this model: call attach_bank first')

    def take_gradients(self) -> None:
        """Let the gradients be those of the banks, of which they are views."""
        for own, tensor, cut in self._sources:
            own.grad = None if tensor.grad is None else tensor.grad[cut]


def _largest_ranks(
    model: nn.Module, adapters: Sequence[Mapping[tuple[str, str], Pair]]
) -> dict[str, dict[str, int]]:
    """Return the largest rank by layer and slice, in the order of the model and of the rows; everything is checked."""
    ranks: dict[str, dict[str, int]] = {}
    for number, adapter in enumerate(adapters):
        for site, parts in by_site(adapter).items():
            linear = check_site(model, site)
            rows = linear.out_features // (1 if '' in parts else len(layout_of(site)))
            for part, pair in parts.items():
                check_pair(pair, linear.in_features, rows, f'adapter {number}, {site}')
                own = ranks.setdefault(site, {})
                own[part] = max(own.get(part, 0), pair.rank)
                if '' in own and len(own) > 1:
                    raise ValueError(f'{site} is adapted as one weight by some adapters and by slices by others, such '
                                     f'as number {number}')
    if not ranks:
        raise ValueError('the adapters change no layer')
    return {name: {part: ranks[name][part] for part in ('', *layout_of(name)) if part in ranks[name]}
            for name, _ in model.named_modules() if name in ranks}


def _make_bank(
    model: nn.Module, site: str, ranks: Mapping[str, int], count: int, room: int, dtype: torch.dtype | None
) -> LoRABank:
    linear = model.get_submodule(site)
    learns = [p is not None and p.requires_grad for p in (linear.weight, linear.bias)]
    limit = min(linear.in_features, linear.out_features // (1 if '' in ranks else len(layout_of(site))))
    ranks = {part: min(max(rank, room), limit) for part, rank in ranks.items()}
    whole = '' in ranks
    bank = LoRABank(linear.in_features, linear.out_features, count, ranks[''] if whole else ranks,
                    slices=None if whole else list(ranks), layout=layout_of(site) or 'qkv',
                    bias=linear.bias is not None, device='meta', dtype=linear.weight.dtype,
                    lora_dtype=dtype or learned_dtype(linear.weight))
    bank._take_over(linear)
    bank.windows, bank.plain_learns = is_among(model, site, WINDOWED), learns
    return bank
