"""Banks of LoRAs against separate models, in float64: outputs, gradients, optimizer steps, the way there and back."""

import copy

import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from mmpretrain.models import SwinTransformer, VisionTransformer

from mmlora.adapters import (
    adapter_parameter_names,
    freeze,
    merge_adapters,
    unmerge_adapters,
)
from mmlora.adapters.banked import (
    Member,
    append_adapter,
    attach_bank,
    detach_bank,
    find_banks,
    put_adapter,
    route,
    take_adapter,
)
from mmlora.adapters.lora_weights import Pair, adapt_with, draw_lora, read_lora
from mmlora.io.convert import convert
from mmlora.models import LoRACLIPVision

K, ROUTES = 3, {
    'groups': [0, 0, 1, 1, 2, 2],
    'groups in another order': [2, 2, 0, 0],
    'unequal groups': [0, 1, 1, 1],
    'mixed, some without': [2, 0, -1, 1, 0],
    'one for all': [1, 1],
    'none': [-1, -1, -1],
}  # yapf: disable


def vit():
    arch = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=24)
    return VisionTransformer(arch=arch, img_size=16, patch_size=8)


def swin():
    arch = dict(embed_dims=8, depths=[1, 2], num_heads=[1, 2])
    return SwinTransformer(arch=arch, img_size=32, window_size=4, patch_size=2, out_indices=(1,))


def clip():
    arch = dict(image_size=16, patch_size=8, vision_width=16, vision_layers=2, vision_heads=2)
    return LoRACLIPVision(arch=arch, params=None)


BACKBONES = {
    'vit': (vit, 16, ['layers.0.attn.qkv', 'layers.1.attn.qkv', 'layers.1.ffn.layers.1']),
    'swin': (swin, 32, ['stages.0.blocks.0.attn.w_msa.qkv', 'stages.1.blocks.1.attn.w_msa.qkv',
                        'stages.1.blocks.1.attn.w_msa.proj']),
    'clip': (clip, 16, ['layers.0.attn.qkv', 'layers.1.attn.qkv', 'layers.1.attn.proj']),
}  # yapf: disable


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def drawn(model, sites, rank, slices, scaling):
    weights = draw_lora(model, sites, rank, slices, scaling)
    return {key: Pair(pair.a, torch.randn_like(pair.b), scaling) for key, pair in weights.items()}


@pytest.fixture(params=BACKBONES)
def world(request):
    """A plain frozen backbone, three LoRAs of other ranks, scalings, slices and layers, and as many adapted copies."""
    make, size, sites = BACKBONES[request.param]
    model = make()
    model.eval()  # mmpretrain's own return None
    adapters = [drawn(model, sites, 2, 'qv', 0.5), drawn(model, sites, 3, 'qv', 1.0),
                drawn(model, sites[:2], 1, 'k', 2.0)]
    freeze(model)
    singles = []
    for adapter in adapters:
        singles.append(copy.deepcopy(model))
        adapt_with(singles[-1], adapter)
    return model, size, adapters, singles


def close(found, wanted, atol=1e-10):
    torch.testing.assert_close(found, wanted, rtol=0, atol=atol)


@pytest.mark.parametrize('indices', ROUTES.values(), ids=ROUTES)
def test_each_sample_is_as_in_its_own_model(world, indices):
    model, size, adapters, singles = world
    x = torch.randn(len(indices), 3, size, size)
    plain = model(x)[-1]
    attach_bank(model, adapters)
    with route(model, torch.tensor(indices)):
        found = model(x)[-1]
    for row, k in enumerate(indices):
        close(found[row], (plain if k < 0 else singles[k](x)[-1])[row])
        assert k < 0 or (found[row] - plain[row]).abs().max() > 1e-3
    if len(set(indices)) == 1:
        with route(model, indices[0]):
            close(model(x[:1])[-1], found[:1])


def test_training_is_that_of_separate_models(world):
    model, size, adapters, singles = world
    banks = attach_bank(model, adapters)
    freeze(model, adapter_parameter_names(model))
    before = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    optimizers = [torch.optim.AdamW([p for p in m.parameters() if p.requires_grad], lr=0.01, weight_decay=0.1)
                  for m in (model, *singles)]
    indices = torch.tensor([1, 0, 2, 2, 0, 1, 1, 1])
    for _ in range(3):
        x, y = torch.randn(len(indices), 3, size, size), torch.randint(4, (len(indices),))
        with route(model, indices):
            out = model(x)[-1].flatten(1)
        total = sum(F.cross_entropy(out[indices == k], y[indices == k]) for k in range(K))
        optimizers[0].zero_grad()
        total.backward()
        for k, single in enumerate(singles):
            optimizers[k + 1].zero_grad()
            F.cross_entropy(single(x[indices == k])[-1].flatten(1), y[indices == k]).backward()
            for name, parameter in single.named_parameters():
                if parameter.requires_grad:
                    site, _, own = name.rpartition('.')
                    grad = getattr(banks[site], own).grad[k]
                    close(grad[tuple(map(slice, parameter.shape))], parameter.grad)
                    assert grad.count_nonzero() == parameter.grad.count_nonzero() > 0
        for optimizer in optimizers:
            optimizer.step()
    for k, single in enumerate(singles):
        found, wanted = take_adapter(model, k), read_lora(single)
        assert found.keys() == wanted.keys()
        for key, pair in wanted.items():
            close(found[key].a, pair.a)
            close(found[key].b, pair.b)
            assert (pair.b - adapters[k][key].b).abs().max() > 1e-3
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters() if name in before)
    for bank in banks.values():  # what pads stays zero
        for part, rank in bank.ranks.items():
            a, b = bank.tensors(part)
            for k in range(K):
                own = bank.pairs(k)[part].rank if part in bank.pairs(k) else 0
                assert not a[k, own:].any() and not b[k, :, own:].any() and own <= rank


@pytest.mark.parametrize('kind', ['SGD', 'Adam'])
def test_members_learn_with_optimizers_of_their_own(world, kind):
    """Momentum, steps and clipping of each task are its own, also when another has ended."""
    model, size, adapters, singles = world
    attach_bank(model, adapters)
    members = [Member(model, k) for k in range(K)]
    rates = [0.1, 0.02, 0.05]
    optimizers = [(getattr(torch.optim, kind)(m.parameters.values(), lr), getattr(torch.optim, kind)(
        [p for p in s.parameters() if p.requires_grad], lr)) for m, s, lr in zip(members, singles, rates, strict=True)]
    for active in ([0, 1, 2], [0, 1, 2], [1]):
        indices = torch.tensor(active).repeat_interleave(2)
        x = torch.randn(len(indices), 3, size, size)
        for bank in find_banks(model).values():
            bank.zero_grad()
        with route(model, indices):
            out = model(x)[-1].flatten(1)
        sum(out[indices == k].square().mean() for k in active).backward()
        for k in active:
            members[k].take_gradients()
            single = [p for p in singles[k].parameters() if p.requires_grad]
            optimizers[k][1].zero_grad()
            singles[k](x[indices == k])[-1].square().mean().backward()
            norms = [nn.utils.clip_grad_norm_(p, 0.01) for p in (list(members[k].parameters.values()), single)]
            close(*norms)
            for optimizer in optimizers[k]:
                optimizer.step()
    for k, single in enumerate(singles):
        wanted = {name: p for name, p in single.named_parameters() if p.requires_grad}
        assert list(members[k].parameters) == list(wanted)
        for name, parameter in wanted.items():
            close(members[k].parameters[name], parameter, 1e-9)
        taken = take_adapter(model, k)
        assert not any(torch.equal(taken[key].b, adapters[k][key].b) for key in taken)


def test_there_and_back(world):
    model, size, adapters, _ = world
    names, flags = list(model.state_dict()), {n: p.requires_grad for n, p in model.named_parameters()}
    layers, x = dict(model.named_modules()), torch.randn(2, 3, size, size)
    plain = model(x)[-1]
    banks = attach_bank(model, adapters)
    assert set(names) < set(model.state_dict())
    for k, adapter in enumerate(adapters):
        taken = take_adapter(model, k)
        assert taken.keys() == adapter.keys()
        for key, pair in adapter.items():
            assert torch.equal(taken[key].a, pair.a) and torch.equal(taken[key].b, pair.b)
            assert taken[key].scaling == pair.scaling
    assert detach_bank(model) == len(banks) and not find_banks(model)
    assert list(model.state_dict()) == names and dict(model.named_modules()) == layers
    assert {n: p.requires_grad for n, p in model.named_parameters()} == flags
    assert torch.equal(model(x)[-1], plain)


def test_a_hot_swap(world):
    model, size, adapters, singles = world
    attach_bank(model, adapters[:2], room=3)
    put_adapter(model, 0, adapters[1])
    x = torch.randn(2, 3, size, size)
    with route(model, [0, 1]):
        close(model(x)[-1], singles[1](x)[-1])
    site = next(iter(find_banks(model)))
    kept = take_adapter(model, 0)
    with pytest.raises(ValueError, match=f"{site}: this bank has room for .*'k'"):
        put_adapter(model, 0, adapters[2])
    assert all(torch.equal(take_adapter(model, 0)[key].a, pair.a) for key, pair in kept.items())
    with pytest.raises(ValueError, match=r"no bank in \['head'\]"):
        put_adapter(model, 0, {('head', ''): next(iter(adapters[0].values()))})


def test_an_input_that_the_route_does_not_fit_is_refused():
    model = vit()
    x = torch.randn(4, 3, 16, 16)
    attach_bank(model, [drawn(model, ['layers.0.attn.qkv'], 1, 'q', 1)] * 2)
    with pytest.raises(RuntimeError, match='which of the 2 adapters'):
        model(x)
    with route(model, [0, 1]), pytest.raises(ValueError, match='route is for 2 samples, .* 4 entries'):
        model(x)  # twice as many as the route: no windows in a ViT
    with pytest.raises(ValueError, match='no bank'), route(vit(), 0):
        pass


def test_a_bank_of_one_needs_no_route():
    model = vit()
    adapter = drawn(model, ['layers.0.attn.qkv'], 1, 'q', 1)
    single = copy.deepcopy(model)
    adapt_with(single, adapter)
    attach_bank(model, [adapter])
    x = torch.randn(2, 3, 16, 16)
    close(model(x)[-1], single(x)[-1])


def test_a_bank_merges_the_adapter_in_use():
    model, x = vit(), torch.randn(2, 3, 16, 16)
    model.eval()
    sites = [f'layers.{number}.attn.qkv' for number in range(2)]
    attach_bank(model, [drawn(model, sites[:1], 1, 'q', 1), drawn(model, sites[1:], 2, 'kv', 1)])
    with pytest.raises(RuntimeError, match='qkv: which of the 2 adapters shall be used'):
        merge_adapters(model)
    for indices, wanted in ((1, True), ([1, 1], True), (-1, True), ([0, 1], False), ([0, -1], False)):
        with route(model, indices):
            before = model(x)[-1]
            if not wanted:
                with pytest.raises(ValueError, match='several adapters, which no one weight can hold'):
                    merge_adapters(model)
                continue
            merge_adapters(model)
            close(model(x)[-1], before)
            with pytest.raises(ValueError, match=r'put on a merged layer|is merged'):
                put_adapter(model, 0, {})
        unmerge_adapters(model)
    with route(model, 0):
        merge_adapters(model)
    plain = vit()
    plain.eval()
    detach_bank(model)
    plain.load_state_dict(model.state_dict())
    close(plain(x)[-1], model(x)[-1])


def test_what_does_not_fit_is_refused_and_changes_nothing():
    model = vit()
    good = drawn(model, ['layers.0.attn.qkv'], 1, 'q', 1)
    state = list(model.state_dict())
    cases = [
        ([], ValueError, 'at least one'),
        ([good, {('layers.1.attn.qkv', 'q'): Pair(torch.ones(1, 5), torch.ones(16, 1), 1.0)}], ValueError,
         'adapter 1, layers.1.attn.qkv: the change is of a weight of 16 x 5, but the model has 16 x 16'),
        ([good, {('layers.0.attn.qkv', ''): Pair(torch.ones(1, 16), torch.ones(48, 1), 1.0)}], ValueError,
         'as one weight by some adapters and by slices by others, such as number 1'),
        ([{('layers.9', ''): next(iter(good.values()))}], AttributeError, '9'),
        ([{('layers.0.ln1', ''): next(iter(good.values()))}], TypeError, 'layers.0.ln1 is a LayerNorm'),
    ]  # yapf: disable
    for adapters, error, message in cases:
        with pytest.raises(error, match=message):
            attach_bank(model, adapters)
        assert list(model.state_dict()) == state
    attach_bank(model, [good])
    with pytest.raises(TypeError, match='layers.0.attn.qkv is a LoRABank'):
        attach_bank(model, [good])


def test_the_published_forward_pass(golden):
    """Numbers of the published code, to which a bank adds adapters that do not disturb."""
    folder = golden / 'lora_recycle'
    base, teacher, wanted = (dict(np.load(folder / f'{name}.npz')) for name in (
        'tiny_clip_vision_weights', 'tiny_lora_teacher', 'lora_forward'))
    model = LoRACLIPVision(
        arch=dict(image_size=32, patch_size=8, vision_width=32, vision_layers=4, vision_heads=4), params=None).eval()
    converted = convert({key: torch.from_numpy(value) for key, value in base.items()})
    model.load_state_dict(converted.backbone)
    x, project = torch.from_numpy(wanted['x']), converted.aside['visual_proj']
    close(model(x)[-1] @ project, torch.from_numpy(wanted['base_features']))
    adapter = {}
    for layer in range(4):
        for offset, part in enumerate('qv'):
            a, b = (torch.from_numpy(teacher[f'w_{letter}_{2 * layer + offset:03d}']) for letter in 'ab')
            adapter[f'layers.{layer}.attn.qkv', part] = Pair(a, b, 1.0)
    other = {key: Pair(torch.randn(3, 32), torch.randn(32, 3), 0.5) for key in adapter}
    attach_bank(model, [other, adapter])
    with route(model, [1, 0, 1]):
        features = model(x)[-1] @ project
    logits = features @ torch.from_numpy(teacher['head_weight']).T + torch.from_numpy(teacher['head_bias'])
    for found, name in ((features, 'lora_features'), (logits, 'lora_logits')):
        close(found[[0, 2]], torch.from_numpy(wanted[name])[[0, 2]])
        assert (found[1] - torch.from_numpy(wanted[name])[1]).abs().max() > 1e-3


def test_a_bank_that_grows_is_the_one_that_is_made_at_once():
    model = vit()
    sites = ['layers.0.attn.qkv', 'layers.1.ffn.layers.1']
    loras = [{key: Pair(pair.a, torch.randn_like(pair.b), 0.1 * (1 + k)) for key, pair in draw_lora(
        model, sites, 1 + k % 3, None, 1.0, torch.Generator().manual_seed(k)).items()} for k in range(7)]
    at_once, grown = copy.deepcopy(model), copy.deepcopy(model)
    attach_bank(at_once, loras, room=3)
    attach_bank(grown, loras[:1], room=3)
    places = set()
    for k, lora in enumerate(loras[1:], 1):
        assert append_adapter(grown, lora) == k
        places.add(grown.get_submodule(sites[0]).lora_A.data_ptr())
        if k == 3:
            twin = copy.deepcopy(grown)  # has no part in the memory of its original
    assert len(places) == 2, 'memory for 4, and then for 10'
    append_adapter(twin, loras[0])
    for name, bank in find_banks(grown).items():
        other = find_banks(at_once)[name]
        for key, value in other.state_dict().items():
            assert torch.equal(bank.state_dict()[key], value), (name, key)
    x, use = torch.randn(8, 3, 16, 16), [*range(7), -1]
    with route(grown, use), route(at_once, use):
        assert torch.equal(grown(x)[-1], at_once(x)[-1])
    with pytest.raises(ValueError, match='has rank 4, this bank has room for 3'):
        append_adapter(grown, draw_lora(model, sites, 4, None, 1.0, torch.Generator()))
    with pytest.raises(ValueError, match='no bank: call attach_bank'):
        append_adapter(model, loras[0])
    assert {len(bank) for bank in find_banks(grown).values()} == {7}
