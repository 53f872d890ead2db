"""The kept text features: no change of what they depend on goes unseen, whoever makes it and however."""

import copy

import clip_tiny
import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from mmpretrain.structures import DataSample

from mmlora.adapters import adapter_modules, adapter_parameter_names, merge_adapters, to_plain, unmerge_adapters
from mmlora.models.clip.feature_cache import bit_sum, fingerprint


def factor(model):
    return model.get_parameter('text.transformer.resblocks.1.attn.lora_B_v')


def one_element(parameter, add):
    parameter.data.view(-1)[3].add_(add)


def optimizer_step(kind, **kwargs):
    def change(model):
        learned = [p for p in model.parameters() if p.requires_grad]
        optimizer = kind(learned or [model.text.ln_final.weight.requires_grad_()], lr=0.1, **kwargs)
        sample = [DataSample().set_gt_label(i) for i in range(3)]
        model(clip_tiny.images(), sample, 'loss')['loss'].backward()
        optimizer.step()

    return change


def averaged(model):
    # As mmengine's EMAHook exchanges weights: through .data, unseen by version counters.
    average = ExponentialMovingAverage(clip_tiny.small_model(seed=5))
    for own, other in zip(model.parameters(), average.module.parameters(), strict=True):
        own.data.copy_(other.data * 1.5)


CHANGES = {
    'load_state_dict': lambda m: m.load_state_dict(clip_tiny.small_model(seed=5).state_dict()),
    'sgd': optimizer_step(torch.optim.SGD),
    'adamw': optimizer_step(torch.optim.AdamW),
    'adamw_foreach': optimizer_step(torch.optim.AdamW, foreach=True),
    'adamw_fused': optimizer_step(torch.optim.AdamW, fused=True),
    'in_place': lambda m: factor(m).detach().add_(0.1),
    'data': lambda m: factor(m).data.add_(0.1),
    'one_element_of_data': lambda m: one_element(factor(m), 0.5),
    'a_frozen_weight': lambda m: one_element(m.text.ln_final.weight, 0.5),
    'new_data': lambda m: setattr(factor(m), 'data', factor(m).data * 2),
    'new_parameter': lambda m: setattr(
        m.text.transformer.resblocks[0].attn, 'lora_A_q', torch.nn.Parameter(torch.ones(2, 8, dtype=torch.float64))),
    'averaged': averaged,
    'numpy': lambda m: factor(m).detach().numpy().__iadd__(0.1),
    'reset': lambda m: [layer.reset_adapter() for layer in adapter_modules(m).values()],
    'set_factors': lambda m: m.text.transformer.resblocks[0].attn.set_factors(
        {k: (2 * a, b) for k, (a, b) in m.text.transformer.resblocks[0].attn.factors().items()}),
    'float32': lambda m: m.float(),
    'swap': lambda m: torch.utils.swap_tensors(factor(m), torch.nn.Parameter(factor(m).detach() + 1)),
    'set_classes': lambda m: m.set_classes(['cat', 'red dog', 'the green dog', 'blue cat']),
    'templates': lambda m: m.set_classes(clip_tiny.CLASSES, 'the {}'),
}  # fmt: skip


def features(model):
    with torch.no_grad():
        return model.class_features().clone()


@pytest.mark.parametrize('change', CHANGES)
def test_no_change_goes_unseen(change):
    model = clip_tiny.small_model().eval()
    before = features(model)
    assert torch.equal(features(model), before)
    CHANGES[change](model)
    after = features(model)  # no switch of the mode in between
    with torch.no_grad():
        fresh = copy.deepcopy(model)._class_features()
    torch.testing.assert_close(after, fresh, rtol=0, atol=1e-10)
    assert not torch.allclose(after.double(), before, rtol=0, atol=1e-9)


@pytest.mark.parametrize('change', ['data', 'a_frozen_weight', 'averaged', 'load_state_dict', 'set_classes'])
def test_no_change_of_a_frozen_tower_goes_unseen_in_training(change):
    model = clip_tiny.small_model(encoder='vision').train()
    sequence = []
    model.text.register_forward_hook(lambda *args: sequence.append(1))
    before = model.class_features()
    assert model.class_features() is before and len(sequence) == 1 and not before.requires_grad
    if change == 'data':
        model.text.ln_final.weight.data.mul_(1.5)
        model.text.ln_final.bias.data.add_(0.5)
    elif change == 'averaged':
        model.text.load_state_dict(clip_tiny.small_model(seed=5, encoder='vision').text.state_dict())
    elif change == 'load_state_dict':
        model.load_state_dict(clip_tiny.small_model(seed=5, encoder='vision').state_dict())
    else:
        CHANGES[change](model)
    assert not torch.allclose(model.class_features(), before) and len(sequence) == 2


def test_merging_keeps_the_features_and_writes_the_cache_anew():
    model = clip_tiny.small_model().eval()
    before, calls = features(model), []
    model.text.register_forward_hook(lambda *args: calls.append(1))
    for step in (merge_adapters, unmerge_adapters, merge_adapters, to_plain):
        step(model)
        torch.testing.assert_close(features(model), before, rtol=0, atol=1e-10)
    assert len(calls) == 4 and not adapter_parameter_names(model)


def test_training_with_a_learning_tower_never_reads_the_cache():
    model = clip_tiny.small_model(lora_dropout=0.5)
    kept = features(model.eval())
    drawn = [model.train().class_features() for _ in range(2)]
    assert all(feature.requires_grad for feature in drawn)
    assert not torch.equal(*drawn) and not torch.equal(drawn[0], kept)
    with torch.no_grad():
        assert not torch.equal(model.class_features(), kept)  # in training mode dropout is drawn without gradients too
    model.eval()
    assert model.class_features().requires_grad  # evaluation with gradients, as for saliency
    assert torch.equal(features(model), kept)


def test_precision_and_inference_mode_have_their_own_features():
    model = clip_tiny.small_model(encoder='vision').float().train()
    with torch.inference_mode():
        model.eval()(clip_tiny.images().float())
    sample = [DataSample().set_gt_label(i) for i in range(3)]
    model.train()(clip_tiny.images().float(), sample, 'loss')['loss'].backward()  # inference tensors cannot be saved
    exact = features(model)
    with torch.autocast('cpu', torch.bfloat16):
        rough = features(model)
    assert not torch.equal(exact, rough) and torch.equal(features(model), exact)


def test_copies_do_not_share_a_cache():
    model = clip_tiny.small_model().eval()
    before = features(model)
    twin = copy.deepcopy(model)
    factor(twin).data.add_(1)
    assert not torch.allclose(features(twin), before) and torch.equal(features(model), before)


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16', 'float32', 'float64', 'int64', 'bool'])
@pytest.mark.parametrize('layout', ['transposed', 'whole', 'odd', 'offset'])
def test_the_sum_of_bits_sees_every_element(dtype, layout):
    zeros = torch.zeros(4, 8).to(getattr(torch, dtype))
    tensor = {'transposed': zeros.T, 'whole': zeros, 'odd': zeros[:3, :5].contiguous(), 'offset': zeros.view(-1)[3:]}[
        layout]
    first = bit_sum(tensor)
    for place in torch.ones_like(tensor).nonzero():
        tensor[tuple(place)] = 1
        assert bit_sum(tensor) != first
        tensor[tuple(place)] = 0
    assert bit_sum(tensor) == first
    assert bit_sum(torch.tensor(0.0)) != bit_sum(torch.tensor(-0.0))


def test_a_fingerprint_tells_inference_tensors_apart_too():
    with torch.inference_mode():
        layer = torch.nn.Linear(2, 2)
        before = fingerprint(layer)
        layer.weight.add_(1)
        assert fingerprint(layer) != before
