"""Token pruning, sparse tokens and masks, against the golden numbers of LoRA-Recycle and each other."""

import pytest
import torch
from mmpretrain.models import DeiT3, VisionTransformer
from recycle_tiny import Classifier, arrays

from mmlora.adapters import VPT
from mmlora.adapters.sparse_tokens import SparseTokens
from mmlora.adapters.token_masks import decode_mask, encode_mask, mask_images, mask_of_record
from mmlora.adapters.token_pruning import TokenPruning, TokenRecord, class_attention, kept_patches
from mmlora.models import AdaptedBackbone, VitSR_LoRA

EXACT = dict(rtol=0, atol=1e-10)
SMALL = dict(embed_dims=24, num_layers=3, num_heads=3, feedforward_channels=32)
VIT = dict(arch=SMALL, img_size=32, patch_size=8)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope='module')
def tower():
    return Classifier()


def perturb(model):
    """Give every parameter of a model a random value, so that no adapter is a no-op."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.copy_(torch.randn_like(parameter) * 0.3)
    model.double().eval()
    return model


def adapted(kind, **kwargs):
    kwargs = dict(kind=kind, **kwargs)
    return perturb(AdaptedBackbone(dict(type='VisionTransformer', **VIT), **kwargs))


BACKBONES = {
    'ViT': lambda: perturb(VisionTransformer(**VIT)),
    'VitSR_LoRA': lambda: perturb(VitSR_LoRA(**VIT, lora_ranks=2)),
    'LoRA': lambda: adapted('LoRA', targets=['attn.qkv', 'ffn.layers.1'], lora_ranks=2),
    'DoRA': lambda: adapted('DoRA', targets=['attn.qkv'], lora_ranks=2),
    'AdaptFormer': lambda: adapted('AdaptFormer', adapter_cfg=dict(bottleneck=4)),
    'Houlsby': lambda: adapted('Houlsby', adapter_cfg=dict(bottleneck=4)),
    'SSF': lambda: adapted('SSF'),
}


@pytest.fixture(scope='module', params=BACKBONES)
def backbone(request):
    with torch.no_grad():
        return BACKBONES[request.param]()


def images(count=3, size=32):
    return torch.randn(count, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize('ratio', ['000', '025', '030', '050', '075'])
def test_one_layer(ratio):
    golden, model = arrays('prune_layer'), Classifier(layers=2)
    pruning = TokenPruning([1], [int(ratio) / 100])
    pruning.attach(model)
    out = model.backbone.layers[1](golden['hidden_in'])
    torch.testing.assert_close(out, golden[f'r{ratio}_out_fixed'], **EXACT)
    assert torch.equal(pruning.record.kept, golden[f'r{ratio}_index'])
    torch.testing.assert_close(pruning.record.attention, golden['cls_attention'], **EXACT)


@pytest.mark.parametrize('schedule', 'ABCN')
def test_whole_tower(tower, schedule):
    golden = arrays('prune_encoder')
    layers, ratios = golden[f'{schedule}_layers'].tolist(), golden[f'{schedule}_ratios'].tolist()
    pruning = TokenPruning(*([], []) if layers == [-1] else (layers, ratios))
    pruning.attach(tower)
    torch.testing.assert_close(tower.features(golden['x']), golden[f'{schedule}_features_fixed'], **EXACT)
    pruning.detach()
    assert torch.equal(pruning.record.kept, golden[f'{schedule}_index_fixed'])
    torch.testing.assert_close(tower.features(golden['x']), golden['N_features_fixed'], **EXACT)


def test_the_last_layer_leaves_the_class_token_as_it_is(backbone):
    plain = backbone(images())[-1]
    pruning = TokenPruning([-1], [0.75])
    pruning.attach(backbone)
    torch.testing.assert_close(backbone(images())[-1], plain, **EXACT)
    assert pruning.record.kept.shape == (3, 5) and pruning.record.entered.shape == (3, 17)
    pruning.detach()


def watch(block, x):
    """Return the sum of input and attention of a layer, and what its projection gives."""
    seen = []
    hooks = [
        block.ln2.register_forward_pre_hook(lambda m, args: seen.append(args[0])),
        block.attn.qkv.register_forward_hook(lambda m, args, out: seen.append(out)),
    ]
    block(x)
    for hook in hooks:
        hook.remove()
    return seen[1], seen[0]


def by_hand(backbone, x, layer, ratio):
    """Prune with no hook: run the layers one by one, and a layer that prunes piece by piece."""
    tokens = []
    with backbone.layers[0].register_forward_pre_hook(lambda m, args: tokens.append(args[0])):
        backbone(x)
    x = tokens[0]
    for i, block in enumerate(backbone.layers):
        if i != layer:
            x = block(x)
            continue
        inside, qkv = watch(block, x)
        q, k, _ = qkv.reshape(*x.shape[:2], 3, 3, 8).permute(2, 0, 3, 1, 4)
        row = (q[:, :, :1] @ k.transpose(-2, -1) / 8**0.5).softmax(-1)[:, :, 0, 1:].mean(1)
        keep = [sorted(r.topk(len(r) - int(len(r) * ratio)).indices.tolist()) for r in row]
        x = torch.stack([h[[0, *(j + 1 for j in own)]] for h, own in zip(inside, keep, strict=True)])
        x = block.ffn(block.ln2(x), identity=x)
    return backbone.ln1(x)[:, 0]


@pytest.mark.parametrize('layer', [0, 1])
def test_pruning_within_any_backbone(backbone, layer):
    plain = backbone(images())[-1]
    wanted = by_hand(backbone, images(), layer, 0.6)
    pruning = TokenPruning([layer], [0.6])
    pruning.attach(backbone)
    found = backbone(images())[-1]
    pruning.detach()
    torch.testing.assert_close(found, wanted, **EXACT)
    assert not torch.allclose(found, plain, atol=1e-4)
    assert pruning.record.kept.shape == pruning.record.entered.shape == (3, 1 + 16 - 9)
    torch.testing.assert_close(backbone(images())[-1], plain, rtol=0, atol=0)


def test_class_attention_is_a_row_of_the_whole():
    qkv = torch.randn(2, 5, 3 * 12, dtype=torch.float64)
    q, k, _ = qkv.reshape(2, 5, 3, 3, 4).permute(2, 0, 3, 1, 4)
    whole = (q @ k.transpose(-2, -1) / 2).softmax(-1).mean(1)
    torch.testing.assert_close(class_attention(qkv, 3), whole[:, 0], **EXACT)
    assert class_attention(qkv.bfloat16(), 3).dtype == torch.float32


def test_kept_patches_are_in_order_and_the_first_of_equals_leaves():
    attention = torch.tensor([[0.5, 0.1, 0.3, 0.2], [0.1, 0.4, 0.1, 0.4]])
    assert kept_patches(attention, 0.5).tolist() == [[0, 2], [1, 3]]
    assert kept_patches(attention, 0.25).tolist() == [[0, 2, 3], [1, 2, 3]]
    assert kept_patches(attention, 0.2).tolist() == [[0, 1, 2, 3]] * 2


def test_gradients_pass_through_what_stays():
    with torch.enable_grad():
        model, pruning = Classifier(), TokenPruning([0], [0.5])
        pruning.attach(model)
        x = images(1).requires_grad_()
        model(x).sum().backward()
        lost = sorted(set(range(16)) - {i - 1 for i in pruning.record.kept[0].tolist()})
        by_patch = x.grad.reshape(3, 4, 8, 4, 8).abs().sum((0, 2, 4)).flatten()
        assert len(lost) == 8 and by_patch.min() > 0  # Layer 0 attends to all, so even they matter.


@pytest.mark.parametrize('layers, ratios, message', [
    ([1, 2], [0.5], 'must have the same length'),
    ([1], [1.0], r'must lie in \[0, 1\), got 1'),
    ([1], [-0.1], r'must lie in \[0, 1\), got -0.1'),
])
def test_bad_schedules(layers, ratios, message):
    with pytest.raises(ValueError, match=message):
        TokenPruning(layers, ratios)


@pytest.mark.parametrize('layers, ratios', [('1', [0.5]), ([1.5], [0.5]), ([True], [0.5]), ([1], ['a']), ([1], 0.5)])
def test_bad_types(layers, ratios):
    with pytest.raises(TypeError):
        TokenPruning(layers, ratios)


@pytest.mark.parametrize('layers, message', [([3], 'no layer 3; choose from 0 to 2'), ([2, -1], 'names layer 2 twice')])
def test_layers_that_do_not_fit(layers, message):
    model = VisionTransformer(**VIT)
    with pytest.raises(ValueError, match=message):
        TokenPruning(layers, [0.5] * len(layers)).attach(model)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


@pytest.mark.parametrize('make, message', [
    (lambda: VisionTransformer(**VIT, out_type='featmap'), "out_type='featmap'"),
    (lambda: VisionTransformer(**VIT, out_type='raw', with_cls_token=False), 'class token'),
    (lambda: torch.nn.Linear(2, 2), 'this Linear has 0'),
    (lambda: DeiT3(**VIT), 'this DeiT3 has 0'),
    (lambda: torch.nn.ModuleList([VisionTransformer(**VIT), VisionTransformer(**VIT)]), 'has 2'),
])
@pytest.mark.parametrize('adapter', [lambda: TokenPruning([0], [0.5]), SparseTokens])
def test_models_that_do_not_fit(make, message, adapter):
    with pytest.raises(ValueError, match=message):
        adapter().attach(make())


def test_prompts_and_a_second_adapter_are_refused():
    model = VisionTransformer(**VIT)
    VPT(2).attach(model)
    with pytest.raises(ValueError, match='prompts of VPT'):
        TokenPruning().attach(model)
    model.tuning.detach(model)
    first = TokenPruning()
    first.attach(model)
    with pytest.raises(ValueError, match='detach the TokenPruning first'):
        SparseTokens().attach(model)
    first.detach()
    with pytest.raises(ValueError, match='not attached'):
        first.detach()
    SparseTokens().attach(model)


@pytest.mark.parametrize('name', ['qkv', 'ln2'])
def test_a_layer_replaced_after_attaching_is_noticed(name):
    model = VisionTransformer(**VIT)
    TokenPruning([1], [0.5]).attach(model)
    parent = model.layers[1].attn if name == 'qkv' else model.layers[1]
    setattr(parent, name, torch.nn.Linear(24, 72) if name == 'qkv' else torch.nn.LayerNorm(24))
    with pytest.raises(RuntimeError, match=f'{name} has been replaced'):
        model(images().float())


def test_sparse_features():
    golden, student = arrays('mask_and_sparse_forward'), Classifier('student')
    keep = torch.zeros(3, 16, dtype=torch.bool).scatter_(1, golden['auto_nonzero'] - 1, True)
    x, sparse = golden['auto_masked_normalised'], SparseTokens()
    dense = student.features(x)
    sparse.attach(student)
    with sparse.only(keep):
        torch.testing.assert_close(student.features(x), golden['auto_sparse_features_student'], **EXACT)
    torch.testing.assert_close(student.features(x), golden['auto_dense_features_student'], **EXACT)
    sparse.detach()
    torch.testing.assert_close(student.features(x), dense, rtol=0, atol=0)


def test_sparse_images_of_unequal_counts_do_not_see_each_other(backbone):
    keep = torch.rand(4, 16, generator=torch.Generator().manual_seed(2)) < torch.tensor([[0.2], [0.9], [0.5], [2.0]])
    assert len(set(keep.sum(1).tolist())) == 4
    x, sparse = images(4), SparseTokens()
    plain = backbone(x)[-1]
    sparse.attach(backbone)
    with sparse.only(keep):
        together = backbone(x)[-1]
    for i in range(4):
        with sparse.only(keep[i : i + 1]):
            torch.testing.assert_close(together[i : i + 1], backbone(x[i : i + 1])[-1], **EXACT)
    changed = torch.where(keep.reshape(4, 1, 4, 1, 4, 1), x.reshape(4, 3, 4, 8, 4, 8), 99.0).reshape(x.shape)
    with sparse.only(keep):
        torch.testing.assert_close(backbone(changed)[-1], together, **EXACT)
    sparse.detach()
    torch.testing.assert_close(together[3], plain[3], **EXACT)
    assert not torch.allclose(together[0], plain[0], atol=1e-4)


def test_sparse_layers_see_fewer_tokens():
    model, sparse, seen = VisionTransformer(**VIT), SparseTokens(), []
    sparse.attach(model)
    for layer in model.layers:
        layer.register_forward_hook(lambda m, args, out: seen.append(out.shape[1]))
    with sparse.only(torch.arange(16).expand(2, -1) < 4):
        model(images(2).float())
    assert seen == [5, 5, 5]


@pytest.mark.parametrize('keep, error, message', [
    (torch.ones(2, 16), TypeError, 'boolean'),
    (torch.ones(16, dtype=torch.bool), ValueError, r'must be \(B, P\)'),
    (torch.arange(32).reshape(2, 16) < 16, ValueError, r'images \[1\] keep no patch'),
    (torch.ones(3, 16, dtype=torch.bool), ValueError, '3 images of 16 patches, but the batch has 2 images of 16'),
    (torch.ones(2, 9, dtype=torch.bool), ValueError, '2 images of 9 patches'),
])
def test_bad_sparse_masks(keep, error, message):
    model, sparse = VisionTransformer(**VIT), SparseTokens()
    sparse.attach(model)
    with pytest.raises(error, match=message), sparse.only(keep):
        model(images(2).float())
    assert model(images(2).float())[-1].shape == (2, 24)


def test_other_outputs_need_masks_of_equal_size():
    model, sparse = VisionTransformer(**VIT, out_type='avg_featmap'), SparseTokens()
    keep = torch.arange(16).expand(2, -1) < torch.tensor([[3], [5]])
    with pytest.raises(ValueError, match='call attach first'), sparse.only(keep):
        pass
    sparse.attach(model)
    with pytest.raises(ValueError, match='different numbers of patches'), sparse.only(keep):
        pass
    with sparse.only(keep[:1].expand(2, -1)), pytest.raises(ValueError, match='nested'), sparse.only(keep[:1]):
        pass


def test_masks_of_further_patches():
    golden = arrays('mask_and_sparse_forward')
    record = TokenRecord(golden['extra_index'], golden['extra_index'], golden['extra_attention'])
    mask = mask_of_record(record, 16, 0.5)
    assert torch.equal(mask.nonzero()[:, 1].reshape(3, -1) + 1, golden['extra50_nonzero'])
    assert torch.equal(mask_images(golden['img'], mask, (4, 4)), golden['extra50_masked'])
    record = TokenRecord(golden['auto_index'], golden['extra_index'], golden['extra_attention'])
    assert torch.equal(mask_images(golden['img'], mask_of_record(record, 16), (4, 4)), golden['auto_masked'])


@pytest.mark.parametrize('ratio', [0.25, 0.5, 0.75])
def test_a_mask_is_what_pruning_in_the_last_layer_leaves(tower, ratio):
    x, first, second = images(), TokenPruning(), TokenPruning([3], [ratio])
    for pruning in (first, second):
        pruning.attach(tower)
        tower(x)
        pruning.detach()
    assert torch.equal(mask_of_record(first.record, 16, ratio), mask_of_record(second.record, 16))
    both = mask_of_record(second.record, 16, 0.5)
    assert both.sum(1).tolist() == [int(16 * (1 - ratio)) - int(16 * (1 - ratio) * 0.5)] * 3
    least = 1 - (1 - ratio) * 0.5
    assert torch.equal(both, mask_of_record(first.record, 16, least))


@pytest.mark.parametrize('size', [1, 7, 8, 16, 49])
def test_masks_as_text(size):
    mask = torch.rand(size, generator=torch.Generator().manual_seed(3)) < 0.5
    mask[0] = True
    text = encode_mask(mask)
    assert torch.equal(decode_mask(text, size), mask) and len(text) == 2 * -(-size // 8)


@pytest.mark.parametrize('text, message', [
    ('zz', 'no mask: hexadecimal'), (None, 'no mask: hexadecimal'), ('ffff', 'no mask of 7 patches'),
    ('ff', 'no mask of 7 patches'), ('00', 'keeps no patch'),
])
def test_bad_masks_as_text(text, message):
    with pytest.raises(ValueError, match=message):
        decode_mask(text, 7)
