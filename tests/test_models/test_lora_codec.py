"""Vectors of LoRAs: their order, and codes of each normalisation and back."""

import json

import numpy as np
import pytest
import torch

from mmlora.adapters import LoRASpec, Pair, lora_tensors
from mmlora.models.generators.codec import NORMALISATIONS, LoRACodec, canonical_vectors

SITES = [f'layers.{i}.{end}' for i in (10, 2, 0) for end in ('ffn.layers.1', 'ffn.layers.0.0', 'attn.qkv')]


def draw(seed, rank=2, sites=SITES, scaling=0.5):
    """A LoRA with B of the size of a fresh training's, in no order."""
    generator = torch.Generator().manual_seed(seed)
    pairs = {}
    for site in sites:
        for part in ('v', 'q') if site.endswith('qkv') else ('', ):
            pairs[site, part] = Pair(torch.randn(rank, 6, generator=generator),
                                     1e-3 * torch.randn(5, rank, generator=generator), scaling)
    return pairs


@pytest.fixture
def spec():
    return LoRASpec.of_weights(draw(0), 'abc')


def bank(spec, count=5, **kwargs):
    return torch.stack([spec.flatten(lora_tensors(draw(seed, **kwargs))) for seed in range(count)])


def test_the_order_is_by_depth_and_place_and_a_document_is_the_spec(spec):
    block = ['attn.qkv.lora_A_q', 'attn.qkv.lora_B_q', 'attn.qkv.lora_A_v', 'attn.qkv.lora_B_v',
             'ffn.layers.0.0.lora_A', 'ffn.layers.0.0.lora_B', 'ffn.layers.1.lora_A', 'ffn.layers.1.lora_B']
    assert list(spec.keys) == [f'layers.{i}.{end}' for i in (0, 2, 10) for end in block]
    assert [entry.kind for entry in spec.entries[:8]] == ['q', 'q', 'v', 'v', 'fc1', 'fc1', 'fc2', 'fc2']
    assert (spec.entries[-1].depth, spec.slices, spec.alpha, spec.length) == (2, ('q', 'v'), 1.0, 12 * 22)
    assert LoRASpec.from_document(json.loads(json.dumps(spec.to_document()))) == spec
    swin = LoRASpec.of_weights(draw(0, sites=[
        'stages.0.downsample.reduction', 'stages.2.blocks.10.attn.w_msa.qkv', 'head',
        'stages.2.blocks.9.attn.w_msa.proj', 'stages.0.blocks.1.ffn.layers.1']))
    assert [(entry.module.split('.')[-1], entry.depth) for entry in swin.entries[::2]] == [
        ('1', 0), ('reduction', 1), ('proj', 2), ('qkv', 3), ('qkv', 3), ('head', 4)]
    weights = spec.weights(spec.split(spec.flatten(lora_tensors(draw(3)))))
    assert all(torch.equal(weights[key].b, pair.b) for key, pair in draw(3).items())


@pytest.mark.parametrize('normalise', NORMALISATIONS)
@pytest.mark.parametrize('canonical', [None, 'svd'])
def test_round_trips_with_constant_entries_and_zero_tensors(spec, normalise, canonical):
    vectors = bank(spec)
    spec.split(vectors)['layers.2.attn.qkv.lora_B_q'].zero_()
    vectors[:, -3] = 1.2345
    vectors[1, :12] = 0
    codec = LoRACodec(spec, normalise, canonical=canonical).fit(vectors)
    codes = codec.encode(vectors)
    statistics = codec.statistics(vectors) if normalise == 'sample_tensor' else None
    wanted = canonical_vectors(spec, vectors) if canonical else vectors
    assert codes.isfinite().all() and codes.std() > 0.5
    torch.testing.assert_close(codec.decode(codes, statistics), wanted, rtol=0, atol=1e-6)
    alone = LoRACodec.from_state({f'codec.{key}': value for key, value in codec.state_dict().items()}, 'codec.')
    assert torch.equal(alone.decode(codes), codec.decode(codes)) and alone.spec == spec
    if normalise != 'sample_tensor':
        assert codec.constant.any() and (codes[:, codec.constant] == 0).all()


def test_the_canonical_form_does_not_depend_on_the_factors(spec):
    weights, mix = draw(0), torch.tensor([[2.0, 1.0], [0.5, -1.0]], dtype=torch.float64)
    turned = {key: Pair(mix @ a.double(), b.double() @ mix.inverse(), s) for key, (a, b, s) in weights.items()}
    first, second = (canonical_vectors(spec, spec.flatten(lora_tensors(one)).double()) for one in (weights, turned))
    torch.testing.assert_close(first, second, rtol=0, atol=1e-7)  # Drawn as float32.
    found = spec.weights(spec.split(second))
    for key, pair in turned.items():
        torch.testing.assert_close(found[key].delta(), pair.delta(), rtol=0, atol=1e-10)
        u = found[key].b
        assert (u.gather(0, u.abs().argmax(0, keepdim=True)) > 0).all()
        torch.testing.assert_close(u.norm(dim=0), found[key].a.norm(dim=1))


def test_b_alone_over_a_shared_a(spec):
    shared = {key: value for key, value in lora_tensors(draw(0)).items() if '.lora_A' in key}
    vectors = torch.stack([spec.only('B').flatten({key: value for key, value in lora_tensors(draw(seed)).items()
                                                   if key not in shared}) for seed in range(3)])
    codec = LoRACodec(spec, 'bank_element', 'B').fit(vectors, shared)
    alone = LoRACodec.from_state(codec.state_dict())
    weights = spec.weights(alone.tensors(alone.decode(alone.encode(vectors[1:2]))[0]))
    for key, pair in draw(1).items():
        assert torch.equal(weights[key].a, draw(0)[key].a)
        torch.testing.assert_close(weights[key].b, pair.b, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="needs the A that all LoRAs share"):
        LoRACodec(spec, factors='B').fit(vectors)


def test_sample_tensor_is_that_of_the_published_code(golden):
    arrays = np.load(golden / 'icm_lora' / 'normalize.npz')
    document = json.loads((golden / 'icm_lora' / 'normalize.json').read_text())
    files = {name: {key: torch.from_numpy(arrays[f'{name}/raw/{key}']) for key in document['flatten_order']}
             for name in document['stats']}
    sites = {key.rpartition('.lora_')[0] for key in document['flatten_order']}
    for name, tensors in files.items():
        spec = LoRASpec.of_weights({
            (site, ''): Pair(tensors[f'{site}.lora_A.weight'], tensors[f'{site}.lora_B.weight'], 1.0)
            for site in sites})
        own = spec.flatten({key: tensors[f'{key}.weight'] for key in spec.keys})[None]
        codec = LoRACodec(spec, 'sample_tensor')
        codes = spec.split(codec.encode(own)[0])
        assert list(spec.keys)[-1].split('.')[3] == '10'  # Theirs ends with block 2.
        published = torch.cat([codes[key.removesuffix('.weight')].flatten() for key in document['flatten_order']])
        wanted = torch.from_numpy(arrays[f'{name}/data'])
        torch.testing.assert_close(published, wanted.nan_to_num(0.0), rtol=0, atol=2e-6)
        assert wanted.isnan().sum() == (12 if name == '0' else 0)
        for number, stats in enumerate(document['stats'][name]):
            assert stats['key'] == document['flatten_order'][number]
            found = codec.statistics(own)[0, :, spec.keys.index(stats['key'].removesuffix('.weight'))]
            assert found.tolist() == pytest.approx([stats['mean'], stats['std']], abs=1e-7)


BAD = {
    'rank': (lambda spec: spec.check_same(LoRASpec.of_weights(draw(0, rank=1))),
             r'entry 0: layers\.0\.attn\.qkv\.lora_A_q'),
    'layers': (lambda spec: spec.check_same(LoRASpec.of_weights(draw(0, sites=SITES[:3]))), r'entry 0: .*layers\.10'),
    'fewer': (lambda spec: spec.check_same(spec.only('A')), r'entry 1: layers\.0\.attn\.qkv\.lora_B_q .* here, layers'),
    'backbone': (lambda spec: spec.check_same(LoRASpec.of_weights(draw(0), 'xyz')), 'sha256 xyz, here they have abc'),
    'scaling': (lambda spec: spec.check_same(LoRASpec.of_weights(draw(0, scaling=2.0), 'abc')), 'scaling 2.0'),
    'missing': (lambda spec: spec.flatten({}), 'layers.0.attn.qkv.lora_A_q .* is missing'),
    'unknown': (lambda spec: spec.flatten({'x': torch.ones(1)}), 'no entries of the spec, the first: x'),
    'long': (lambda spec: LoRACodec(spec).fit(torch.ones(2, 265)), r'has 264 elements, got \(2, 265\)'),
    'short': (lambda spec: LoRACodec(spec).decode(torch.ones(2, 3)), 'has 264 elements'),
    'empty': (lambda spec: LoRACodec(spec).fit(torch.ones(0, 264)), 'n at least 1'),
    'nan': (lambda spec: LoRACodec(spec).fit(torch.full((2, 264), float('nan'))), 'not finite'),
    'one': (lambda spec: LoRACodec(spec, 'bank_element').fit(torch.ones(1, 264)), 'at least 2 LoRAs'),
    'unfitted': (lambda spec: LoRACodec(spec).encode(torch.ones(2, 264)), 'no statistics'),
    'no statistics': (lambda spec: LoRACodec(spec).load_state_dict({}), 'saved without the statistics'),
    'other spec': (lambda spec: LoRACodec(spec).load_state_dict(
        LoRACodec(LoRASpec.of_weights(draw(0, rank=1))).state_dict()), 'the LoRA of the file differs in entry 0'),
    'canonical B': (lambda spec: LoRACodec(spec, factors='B', canonical='svd'), "needs factors='AB'"),
    'normalise': (lambda spec: LoRACodec(spec, 'z'), "got 'z'"),
}  # yapf: disable


@pytest.mark.parametrize('case', BAD)
def test_bad_input_is_refused(spec, case):
    function, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        function(spec)
