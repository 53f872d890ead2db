"""CLIP with LoRA against the numbers of the published code."""

import json

import clip_tiny
import pytest
import torch
from mmengine.optim import CosineAnnealingLR
from mmpretrain.structures import DataSample

from mmlora.adapters import merge_adapters, merged_state_dict, parameter_report, unmerge_adapters
from mmlora.models import LoRACLIPClassifier, LoRACLIPVision
from mmlora.models.clip import convert_openai_keys, restore_openai_keys

CLOSE = dict(rtol=1e-5, atol=1e-5)
FEATURES = ['both_qkv', 'text_qkv', 'text_qkvo', 'vision_qkv', 'vision_qkvo']
RUNS = ['both_qkv_default_lr', 'both_qkv_lr1e-2', 'text_qkv_lr1e-2', 'vision_qkv_lr1e-2']


@pytest.fixture(scope='module')
def inputs():
    return clip_tiny.arrays('tiny_clip_inputs')


def samples(labels):
    return [DataSample().set_gt_label(int(label)) for label in labels]


def test_zero_shot(inputs):
    model, expected = clip_tiny.golden_model().eval(), clip_tiny.arrays('tiny_clip_zeroshot')
    with torch.no_grad():
        images, texts = model.encode_image(inputs['test_img']), model.encode_text(inputs['tokens'])
        torch.testing.assert_close(images, expected['image_features'], **CLOSE)
        torch.testing.assert_close(texts, expected['text_features'], **CLOSE)
        torch.testing.assert_close(model.class_features(), expected['text_features_norm'], **CLOSE)
        logits = model(inputs['test_img'])
        torch.testing.assert_close(logits, expected['logits_scale100'], rtol=1e-5, atol=1e-4)
        other = clip_tiny.golden_model(logit_scale='pretrained').eval()(inputs['test_img'])
        torch.testing.assert_close(other, expected['logits_model'], rtol=1e-5, atol=1e-4)
    results = model.predict(inputs['test_img'], samples(inputs['test_lab']))
    assert [int(r.pred_label) for r in results] == expected['logits_scale100'].argmax(1).tolist()
    torch.testing.assert_close(torch.stack([r.pred_score for r in results]), logits.softmax(1))


@pytest.mark.parametrize('merged', [False, True])
@pytest.mark.parametrize('case', FEATURES)
def test_features_with_factors(inputs, case, merged):
    encoder, params = case.split('_')
    model = clip_tiny.golden_model(encoder=encoder, params=params).eval()
    expected = clip_tiny.arrays(f'tiny_lora_features_{case}')
    plain = clip_tiny.arrays('tiny_clip_zeroshot')
    count = clip_tiny.set_published(model, expected)
    assert count == len(expected) - 4
    assert parameter_report(model).trainable == int(expected['n_trainable'])
    if merged:
        merge_adapters(model)
    with torch.no_grad():
        images, texts = model.encode_image(inputs['test_img']), model.encode_text(inputs['tokens'])
        logits = model(inputs['test_img'])
    torch.testing.assert_close(images, expected['image_features'], **CLOSE)
    torch.testing.assert_close(texts, expected['text_features'], **CLOSE)
    torch.testing.assert_close(logits, expected['logits_scale100'], rtol=1e-5, atol=1e-4)
    assert torch.allclose(images, plain['image_features'], **CLOSE) == (encoder == 'text')
    assert torch.allclose(texts, plain['text_features'], **CLOSE) == (encoder == 'vision')


@pytest.mark.parametrize('case', RUNS)
def test_training(inputs, case):
    about = json.loads((clip_tiny.FOLDER / f'train_{case}.json').read_text())
    expected, args = clip_tiny.arrays(f'train_{case}'), about['args']
    model = clip_tiny.golden_model(
        encoder=args['encoder'], params=args['params'], lora_rank=args['r'], lora_alpha=args['alpha']
    )
    clip_tiny.set_published(model, expected, 'init.')
    learned = [p for p in model.parameters() if p.requires_grad]
    frozen = {k: v.clone() for k, v in model.state_dict().items() if 'lora_' not in k}
    optimizer = torch.optim.AdamW(learned, args['lr'], betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2)
    schedule = CosineAnnealingLR(optimizer, T_max=6, eta_min=1e-6, by_epoch=False, end=6)
    losses, rates = [], []
    model.train()
    for step in range(6):
        batch = step % 3
        rates.append(optimizer.param_groups[0]['lr'])
        loss = model(inputs[f'train{batch}_img'], samples(inputs[f'train{batch}_lab']), mode='loss')['loss']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    assert rates == pytest.approx(expected['lr'].tolist(), rel=1e-12)
    loose = 2e-3 if args['lr'] > 1e-3 else 2e-4
    assert losses[:3] == pytest.approx(expected['loss'].tolist()[:3], abs=loose / 10)
    assert losses == pytest.approx(expected['loss'].tolist(), abs=loose)
    own = clip_tiny.published(model)
    final = {key.removeprefix('final.'): v for key, v in expected.items() if '.w_lora_' in key and 'final.' in key}
    assert set(own) == set(final)
    for key, value in final.items():
        torch.testing.assert_close(own[key], value, rtol=0, atol=loose)
        assert not torch.equal(own[key], expected[f'init.{key}'])
    with torch.no_grad():
        logits = model.eval()(inputs['test_img'])
    torch.testing.assert_close(logits, expected['final_logits_scale100'], rtol=0, atol=loose * 2)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in frozen.items())


def test_the_published_schedule():
    table = json.loads((clip_tiny.FOLDER / 'cosine_lr.json').read_text())
    for total, rates in table.items():
        parameter = torch.nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.SGD([parameter], lr=2e-4)
        schedule = CosineAnnealingLR(optimizer, T_max=int(total), eta_min=1e-6, by_epoch=False, end=int(total))
        seen = []
        for _ in range(int(total)):
            seen.append(optimizer.param_groups[0]['lr'])
            optimizer.step()
            schedule.step()
        assert {step: seen[int(step)] for step in rates} == pytest.approx(rates, rel=1e-9)


class TestNames:
    def test_there_and_back(self):
        state = clip_tiny.arrays('tiny_clip_state_dict')
        ours = convert_openai_keys(state)
        back = restore_openai_keys(ours)
        assert set(back) == set(state)
        assert all(torch.equal(back[key], value) and back[key].shape == value.shape for key, value in state.items())
        model = clip_tiny.golden_model()
        assert set(ours) == set(merged_state_dict(model))

    def test_a_merged_model_under_published_names_computes_the_same(self, inputs):
        model = clip_tiny.fill(clip_tiny.golden_model(params='qkvo'), 0.1).eval()
        plain = clip_tiny.golden_model().eval()
        with torch.no_grad():
            expected, before = model(inputs['test_img']), plain(inputs['test_img'])
            plain.load_state_dict(restore_openai_keys(merged_state_dict(model)), strict=False)
            torch.testing.assert_close(plain(inputs['test_img']), expected, rtol=0, atol=1e-3)
            assert not torch.allclose(before, expected, rtol=0, atol=0.1)

    def test_open_clip_keeps_text_apart_in_some_models(self):
        state = clip_tiny.arrays('tiny_clip_state_dict')
        ours = convert_openai_keys(state)
        apart = {k if k.startswith(('visual.', 'logit')) else f'text.{k}': v for k, v in state.items()}
        assert set(convert_openai_keys(apart)) == set(ours)
        assert set(convert_openai_keys({**state, 'input_resolution': torch.tensor(224)})) == set(ours)

    @pytest.mark.parametrize('key', ['visual.attnpool.c_proj.weight', 'visual.transformer.resblocks.0.ls_1.gamma', 'x'])
    def test_other_models_are_refused(self, key):
        with pytest.raises(ValueError, match=f'1 names are none of a CLIP.*{key}'):
            convert_openai_keys({**clip_tiny.arrays('tiny_clip_state_dict'), key: torch.zeros(1)})
        with pytest.raises(ValueError, match='lora_A_q has no name in a plain CLIP'):
            restore_openai_keys({'visual.layers.0.attn.qkv.lora_A_q': torch.zeros(1)})

    def test_the_vision_tower_alone_takes_the_whole_file(self, inputs):
        tower = LoRACLIPVision(clip_tiny.golden_arch()).eval()
        state = clip_tiny.arrays('tiny_clip_state_dict')
        tower.load_state_dict(state, strict=False)
        expected = clip_tiny.arrays('tiny_clip_zeroshot')['image_features']
        with torch.no_grad():
            features = tower(inputs['test_img'])[-1] @ state['visual.proj']
        torch.testing.assert_close(features, expected, **CLOSE)


def test_merging_the_whole_model_is_undone_bit_for_bit():
    model = clip_tiny.fill(clip_tiny.golden_model(params='qkvo'))
    state = {k: v.clone() for k, v in model.named_parameters()}
    assert merge_adapters(model) == 3 * 2 + 2
    assert any(not torch.equal(p, state[k]) for k, p in model.named_parameters())
    unmerge_adapters(model)
    assert all(torch.equal(p, state[k]) for k, p in model.named_parameters())


class Empty(torch.nn.Module):
    """A module of an archive."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_an_archive_as_openai_has_it(tmp_path, inputs):
    root = Empty()
    for key, value in clip_tiny.arrays('tiny_clip_state_dict').items():
        *path, last = key.split('.')
        module = root
        for part in path:
            if not hasattr(module, part):
                module.add_module(part, Empty())
            module = getattr(module, part)
        module.register_parameter(last, torch.nn.Parameter(value.half(), requires_grad=False))
    torch.jit.save(torch.jit.script(root), str(tmp_path / 'ViT-B-16.pt'))
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'ViT-B-16.pt'))
    model = LoRACLIPClassifier(
        clip_tiny.golden_arch(), tokenizer=dict(type='WordTokenizer', vocabulary=['a']), init_cfg=init_cfg)
    model.init_weights()
    model.eval()
    expected = clip_tiny.arrays('tiny_clip_zeroshot')
    with torch.no_grad():
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        images, texts = model.encode_image(inputs['test_img']), model.encode_text(inputs['tokens'])
    for own, golden in ((images, expected['image_features']), (texts, expected['text_features'])):
        torch.testing.assert_close(own, golden, rtol=0, atol=0.02)  # the weights are rounded to float16
