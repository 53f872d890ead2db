"""CLIP with LoRA: encoder x projections x blocks, chunks, the cut at the end of a text, scales, loading, bad input."""

import copy
import math
import pickle

import clip_tiny
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.runner import load_checkpoint, save_checkpoint
from mmpretrain.evaluation import Accuracy
from mmpretrain.models import ImageClassifier, VisionTransformer
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch.utils.flop_counter import FlopCounterMode

from mmlora.adapters import (
    LoRALinear,
    LoRAMultiheadAttention,
    SlicedLoRALinear,
    adapter_modules,
    adapter_parameter_names,
    merge_adapters,
    merged_state_dict,
    to_plain,
)
from mmlora.models import LoRACLIP, LoRACLIPClassifier, LoRACLIPVision
from mmlora.models.backbones.skeleton import Skeleton
from mmlora.models.clip import ARCHS, find_arch, restore_openai_keys
from mmlora.models.clip.blocks import PRESETS, chosen_blocks
from mmlora.models.clip.image_encoder import CLIPImageEncoder

ENCODERS = ['vision', 'text', 'both']
PARAMS = ['qkv', 'qkvo', 'v', 'o', 'ko']
LAYERS = ['all', 'bottom', 'top1', {'vision': [0, 2], 'text': [1]}]


def samples(labels):
    return [DataSample().set_gt_label(label) for label in labels]


def wanted_modules(encoder, params, layers):
    """Return the adapted modules and projections, written down apart from the code under test."""
    blocks = {
        'all': dict(vision=range(3), text=range(4)), 'bottom': dict(vision=[0], text=[0]),
        'top1': dict(vision=[2], text=[3]),
    }.get(str(layers), layers)  # fmt: skip
    wanted = set()
    for i in blocks['vision'] if encoder != 'text' else ():
        wanted |= {f'visual.layers.{i}.attn.qkv.lora_{m}_{p}' for m in 'AB' for p in params if p != 'o'}
        wanted |= {f'visual.layers.{i}.attn.proj.lora_{m}' for m in 'AB' if 'o' in params}
    for i in blocks['text'] if encoder != 'vision' else ():
        wanted |= {f'text.transformer.resblocks.{i}.attn.lora_{m}_{p}' for m in 'AB' for p in params}
    return wanted


@pytest.mark.parametrize('layers', LAYERS, ids=str)
@pytest.mark.parametrize('params', PARAMS)
@pytest.mark.parametrize('encoder', ENCODERS)
class TestTable:
    def test_only_the_chosen_factors_learn_and_all_of_them_do(self, encoder, params, layers):
        model = clip_tiny.small_model(encoder=encoder, params=params, layers=layers).train()
        wanted = wanted_modules(encoder, params, layers)
        frozen = {k: v.clone() for k, v in model.state_dict().items() if k not in wanted}
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 0.01)
        model(clip_tiny.images(), samples([0, 1, 2]), 'loss')['loss'].backward()
        for name, parameter in model.named_parameters():
            learns = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
            assert learns == parameter.requires_grad == (name in wanted), name
        optimizer.step()
        assert all(torch.equal(model.state_dict()[key], value) for key, value in frozen.items())

    def test_it_is_the_plain_clip_of_the_changed_weights(self, encoder, params, layers):
        model = clip_tiny.small_model(encoder=encoder, params=params, layers=layers).eval()
        plain, x = clip_tiny.small_model(layers='bottom').eval(), clip_tiny.images()
        for name in adapter_parameter_names(plain):
            nn.init.zeros_(plain.get_parameter(name))
        with torch.no_grad():
            before, expected = plain(x), model(x)
            assert not torch.allclose(before, expected)
            plain.load_state_dict({k: v.clone() for k, v in merged_state_dict(model).items()}, strict=False)
            torch.testing.assert_close(plain(x), expected, rtol=0, atol=1e-10)
            merge_adapters(model)
            torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-10)
            to_plain(model)
            torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-10)
        assert not adapter_modules(model)


def test_logits_are_scaled_cosines():
    model, x = clip_tiny.small_model().eval(), clip_tiny.images()
    images, texts = model.extract_feat(x)[0], model.encode_text(model._tokens)
    expected = 100 * F.cosine_similarity(images[:, None], texts[None], dim=-1)
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-10)
    loss = model(x, samples([3, 0, 1]), 'loss')['loss']
    torch.testing.assert_close(loss, F.cross_entropy(expected, torch.tensor([3, 0, 1])), rtol=0, atol=1e-10)


def test_fresh_adapters_change_nothing():
    model = clip_tiny.small_model(params='qkvo').eval()
    for layer in adapter_modules(model).values():
        layer.reset_adapter()
    x, fresh = clip_tiny.images(), model(clip_tiny.images())
    to_plain(model)
    torch.testing.assert_close(model(x), fresh, rtol=0, atol=1e-10)


class TestText:
    def test_nothing_behind_the_end_is_looked_at_and_cutting_there_is_exact(self):
        model = clip_tiny.small_model().eval()
        tokens = model.tokenizer(['a photo of a dog.', 'a dog', 'cat'], 14)
        assert tokens.shape[1] == 8
        whole = F.pad(tokens, (0, 14 - tokens.shape[1]))
        expected = model.text(whole)
        cut = model.encode_text(whole)
        torch.testing.assert_close(cut, expected, rtol=0, atol=1e-12)
        rubbish = whole.clone()
        rubbish[1, 5:], rubbish[2, 4:] = 3, 7
        torch.testing.assert_close(model.text(rubbish), expected, rtol=0, atol=1e-12)
        rubbish[1, 2] = 3
        assert not torch.allclose(model.text(rubbish)[1], expected[1])

    def test_no_position_behind_the_longest_end_is_computed(self, monkeypatch):
        model = clip_tiny.small_model(text_chunk=1).eval()
        seen = []
        model.text.register_forward_pre_hook(lambda module, args: seen.append(tuple(args[0].shape)))
        model.encode_text(F.pad(model.tokenizer(['a', 'a photo of a cat', 'dog'], 14), (0, 5)))
        assert seen == [(1, 3), (1, 7), (1, 3)]

    @pytest.mark.parametrize('checkpointing', [False, True])
    @pytest.mark.parametrize('chunk', [1, 2, 3, 99])
    def test_chunks_and_checkpointing_change_nothing(self, chunk, checkpointing):
        results = []
        for kwargs in ({}, dict(text_chunk=chunk, text_checkpointing=checkpointing)):
            model = clip_tiny.small_model(params='qkvo', templates=['a photo of a {}.', 'the {}'], **kwargs).train()
            loss = model(clip_tiny.images(), samples([0, 1, 3]), 'loss')['loss']
            loss.backward()
            grads = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
            results.append((loss, grads, model.eval()(clip_tiny.images())))
        (loss, grads, logits), (other, other_grads, other_logits) = results
        torch.testing.assert_close(other, loss, rtol=0, atol=1e-10)
        torch.testing.assert_close(other_logits, logits, rtol=0, atol=1e-10)
        for name, grad in grads.items():
            torch.testing.assert_close(other_grads[name], grad, rtol=0, atol=1e-10)

    def test_checkpointing_draws_the_same_dropout_again(self):
        grads = []
        for checkpointing in (False, True):
            model = clip_tiny.small_model(lora_dropout=0.5, text_chunk=2, text_checkpointing=checkpointing).train()
            torch.manual_seed(3)
            model(clip_tiny.images(), samples([0, 1, 3]), 'loss')['loss'].backward()
            grads.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
        for name, grad in grads[0].items():
            torch.testing.assert_close(grads[1][name], grad, rtol=0, atol=1e-10)

    def test_checkpointing_keeps_fewer_activations(self):
        def kept(checkpointing):
            model, sizes = clip_tiny.small_model(text_chunk=1, text_checkpointing=checkpointing).train(), []
            with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
                model.class_features()
            return sum(sizes)

        assert kept(True) < kept(False) / 5

    def test_templates_are_averaged(self):
        model = clip_tiny.small_model(templates=['a photo of a {}.', 'the {}', 'a painting of the {}']).eval()
        apart = []
        for template in model.templates:
            texts = [template.replace('{}', name.replace('_', ' ')) for name in clip_tiny.CLASSES]
            apart.append(F.normalize(model.encode_text(model.tokenizer(texts, 14)), dim=-1))
        expected = F.normalize(torch.stack(apart).mean(0), dim=-1)
        torch.testing.assert_close(model.class_features(), expected, rtol=0, atol=1e-10)
        one = clip_tiny.small_model(templates='the {}').eval().class_features()
        torch.testing.assert_close(one, apart[1], rtol=0, atol=1e-10)

    def test_gelu_is_another_function(self):
        state = clip_tiny.small_model().state_dict()
        other = clip_tiny.small_model(arch=dict(clip_tiny.ARCH, activation='gelu')).eval()
        other.load_state_dict(state)
        assert isinstance(other.text.transformer.resblocks[0].mlp.act, nn.GELU)
        assert any(isinstance(m, nn.GELU) for m in other.visual.layers[0].ffn.modules())
        assert not torch.allclose(other(clip_tiny.images()), clip_tiny.small_model().eval()(clip_tiny.images()))


class TestPrecision:
    def test_features_in_half_precision_are_compared_in_float32(self):
        model = clip_tiny.small_model().eval().float()
        x = clip_tiny.images().float()
        exact = model(x)
        with torch.autocast('cpu', torch.bfloat16):
            assert model.encode_image(x).dtype == torch.bfloat16
            logits = model(x)
            assert logits.dtype == torch.float32
            expected = 100 * F.normalize(model.encode_image(x).float(), dim=-1) @ F.normalize(
                model.encode_text(model._tokens).float(), dim=-1).T.float()
        with torch.autocast('cpu', enabled=False):
            images, texts = (t.float() for t in (model.encode_image(x), model.encode_text(model._tokens)))
            torch.testing.assert_close(
                exact, 100 * F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T, rtol=0, atol=1e-4)
        assert expected.dtype == torch.bfloat16 and logits.unique().numel() > expected.unique().numel() / 2
        torch.testing.assert_close(logits, exact, rtol=0.1, atol=5)

    def test_a_half_precision_base_keeps_factors_in_float32_where_asked(self):
        attention = nn.MultiheadAttention(8, 2, dtype=torch.bfloat16)
        assert LoRAMultiheadAttention.from_attention(attention).lora_A_q.dtype == torch.float32


class TestScale:
    def test_fixed_pretrained_learned(self):
        model, x = clip_tiny.small_model(logit_scale=7.0).eval(), clip_tiny.images()
        cosines = model(x) / 7
        for kind in ('pretrained', 'learned'):
            other = clip_tiny.small_model(logit_scale=kind).eval()
            nn.init.constant_(other.logit_scale, math.log(20))
            torch.testing.assert_close(other(x), 20 * cosines, rtol=0, atol=1e-10)
            other.train()(x, samples([0, 1, 2]), 'loss')['loss'].backward()
            assert (other.logit_scale.grad is not None) == other.logit_scale.requires_grad == (kind == 'learned')
        assert not model.logit_scale.requires_grad

    @pytest.mark.parametrize('scale', [0, -1.0, float('inf'), 'fixed', True, None])
    def test_bad(self, scale):
        with pytest.raises(ValueError, match='logit_scale must be a positive number'):
            LoRACLIPClassifier(**clip_tiny.SMALL, logit_scale=scale)


class TestDropout:
    def test_masks_are_separate_and_drawn_text_first(self):
        model = clip_tiny.small_model(lora_dropout=0.5, params='qkvo', layers='top1').train()
        seen = []
        for name, module in model.named_modules():
            if isinstance(module, nn.Dropout) and name.endswith('lora_dropout'):
                module.register_forward_hook(lambda m, a, y, name=name: seen.append((name.split('.')[0], y == 0)))
        model(clip_tiny.images(), samples([0, 1, 2]), 'loss')
        assert [tower for tower, _ in seen] == ['text'] * 4 + ['visual'] * 4
        for start in (0, 4):
            q, k, v, _ = (mask for _, mask in seen[start : start + 4])
            assert not torch.equal(q, k) and not torch.equal(k, v) and not torch.equal(q, v)
        seen.clear()
        model.eval()(clip_tiny.images())
        assert not any(mask.any() for _, mask in seen)

    def test_it_is_in_every_adapted_layer(self):
        model = LoRACLIPClassifier(**{**clip_tiny.SMALL, 'lora_dropout': 0.25}, params='qkvo')
        assert {layer.lora_dropout.p for layer in adapter_modules(model).values()} == {0.25}
        kinds = {type(layer) for layer in adapter_modules(model).values()}
        assert kinds == {LoRALinear, SlicedLoRALinear, LoRAMultiheadAttention}


class TestBlocks:
    @pytest.mark.parametrize('name, depth, first, last', [
        ('bottom', 12, 0, 3), ('mid', 12, 4, 7), ('up', 12, 8, 11), ('half-bottom', 12, 0, 5), ('half-up', 12, 6, 11),
        ('top3', 12, 9, 11), ('top2', 12, 10, 11), ('top1', 12, 11, 11), ('top', 12, 11, 11), ('all', 12, 0, 11),
        ('half-bottom', 24, 0, 11), ('half-up', 24, 12, 23), ('all', 24, 0, 23), ('bottom', 24, 0, 7),
        ('mid', 24, 8, 15), ('up', 24, 16, 23), ('top3', 24, 21, 23),
    ])  # fmt: skip
    def test_published_ones(self, name, depth, first, last):
        assert chosen_blocks(name, depth, 'text') == tuple(range(first, last + 1))

    @pytest.mark.parametrize('depth', range(1, 30))
    def test_every_depth_has_them_all(self, depth):
        chosen = {name: chosen_blocks(name, depth, 'vision') for name in PRESETS}
        assert all(blocks and set(blocks) <= set(range(depth)) for blocks in chosen.values())
        if depth > 2:
            assert chosen['bottom'] + chosen['mid'] + chosen['up'] == tuple(range(depth))
            assert chosen['half-bottom'] + chosen['half-up'] == tuple(range(depth))

    @pytest.mark.parametrize('layers, error, message', [
        ('middle', ValueError, "unknown layers 'middle'"),
        ([], ValueError, 'at least one block'),
        ([0, 12], ValueError, r'must lie in 0..11, got 12'),
        ([-1], ValueError, 'got -1'),
        ([1, 1], ValueError, 'each once'),
        ([True], TypeError, 'integers, got True'),
        (dict(vision='all'), ValueError, "entry for 'text'"),
        (dict(text='all', x='all'), ValueError, 'none but'),
    ])  # fmt: skip
    def test_bad(self, layers, error, message):
        with pytest.raises(error, match=message):
            chosen_blocks(layers, 12, 'text')
        assert chosen_blocks(range(21), 24, 'vision') == tuple(range(21))
        assert chosen_blocks(dict(vision=[3, 1], text='top'), 12, 'vision') == (1, 3)


class TestSizes:
    @pytest.mark.parametrize('arch, learned', [('ViT-B/16', 184_320), ('ViT-B/32', 184_320), ('ViT-L/14', 405_504)])
    def test_counts_of_the_named_ones(self, arch, learned):
        with Skeleton():
            model = LoRACLIPClassifier(arch, tokenizer=dict(type='WordTokenizer', vocabulary=['a']))
        assert sum(p.numel() for p in model.parameters() if p.requires_grad) == learned
        total = sum(p.numel() for p in model.parameters() if not p.requires_grad)
        assert total == {'ViT-B/16': 149_620_737, 'ViT-B/32': 151_277_313, 'ViT-L/14': 427_616_513}[arch]
        assert model.text.positional_embedding.shape[0] == 77
        assert model.visual.layers[0].ln1.eps == model.text.ln_final.eps == 1e-5
        state = restore_openai_keys({k: v for k, v in model.state_dict().items() if 'lora_' not in k})
        assert state['visual.proj'].shape == (model.arch.vision_width, model.arch.embed_dim)

    def test_names(self):
        assert find_arch('vit-b-16') == find_arch('ViT-B-16') == ARCHS['ViT-B/16']
        assert find_arch('ViT-L/14', 336).image_size == 336
        with pytest.raises(ValueError, match="unknown arch 'ViT-B/8': did you mean one of .*ViT-B/16"):
            find_arch('ViT-B/8')
        with pytest.raises(TypeError, match=r"unknown fields \['depth'\] and lacks \['vision_layers'\]"):
            find_arch(dict(image_size=32, patch_size=8, vision_width=64, depth=2))
        with pytest.raises(ValueError, match='image_size=30 is not a multiple of patch_size=8'):
            find_arch(dict(clip_tiny.ARCH, image_size=30))
        with pytest.raises(ValueError, match='vision_heads=3'):
            find_arch(dict(clip_tiny.ARCH, vision_heads=3))
        with pytest.raises(ValueError, match="unknown activation 'relu'"):
            find_arch(dict(clip_tiny.ARCH, activation='relu'))

    @pytest.mark.parametrize(
        'field, value, least',
        [('text_layers', -1, 0), ('vision_layers', 0, 1), ('patch_size', 0, 1), ('text_width', '8', 0),
         ('image_size', 16.0, 1), ('vocab_size', 0, 1)],
    )  # fmt: skip
    def test_sizes_that_are_none(self, field, value, least):
        with pytest.raises(ValueError, match=f'{field} must be an integer of at least {least}, got {value!r}'):
            find_arch({**clip_tiny.ARCH, field: value})


VISION = {k: v for k, v in clip_tiny.ARCH.items() if k.startswith(('vision', 'image', 'patch'))}


class TestOneNameForBoth:
    @pytest.mark.parametrize('name', ['LoRACLIP', 'LoRA-CLIP', 'mmlora.LoRACLIP'])
    def test_the_arguments_say_which(self, name):
        assert type(MODELS.build(dict(type=name, **clip_tiny.SMALL))) is LoRACLIPClassifier
        assert type(MODELS.build(dict(type=name, arch=VISION))) is LoRACLIPVision
        assert type(MODELS.build(dict(type=name, arch=VISION, encoder='vision', params='v'))) is LoRACLIPVision
        init_cfg = dict(type='Pretrained', checkpoint='clip.pth')
        assert type(MODELS.build(dict(type=name, arch=VISION, init_cfg=init_cfg))) is LoRACLIPVision
        assert MODELS.build(dict(type=name, **clip_tiny.SMALL, encoder='none')).encoder == 'none'
        own = dict(arch=clip_tiny.ARCH, tokenizer=clip_tiny.SMALL['tokenizer'])
        assert LoRACLIP(encoder='vision', **own).encoder == 'vision' and LoRACLIP(**own).encoder == 'both'

    @pytest.mark.parametrize('head, learned', [('LinearClsHead', 'fc'), ('VisionTransformerClsHead', 'layers.head')])
    def test_as_a_backbone(self, head, learned):
        head, own = dict(type=head, num_classes=4, in_channels=16), {f'head.{learned}.{n}' for n in ('weight', 'bias')}
        torch.manual_seed(0)
        model = MODELS.build(dict(
            type='ImageClassifier', backbone=dict(type='LoRA-CLIP', arch=VISION, params='qo', layers='up'), head=head))
        model.init_weights()
        assert isinstance(model, ImageClassifier) and isinstance(model.backbone, VisionTransformer)
        clip_tiny.fill(model.double())
        nn.init.normal_(model.head.get_parameter(f'{learned}.weight'))
        model.train()(clip_tiny.images(), samples([0, 1, 2]), 'loss')['loss'].backward()
        learned = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
        assert learned == own | {
            f'backbone.layers.2.attn.{n}' for n in ('qkv.lora_A_q', 'qkv.lora_B_q', 'proj.lora_A', 'proj.lora_B')}
        assert model.backbone.train() is model.backbone

    @pytest.mark.parametrize('kind', [LoRACLIPClassifier, 'LoRACLIPClassifier', 'mmlora.LoRACLIPClassifier'])
    def test_the_plain_config_of_a_classifier_without_its_arguments(self, kind):
        plain = LoRACLIPClassifier.plain_config(dict(type=kind, arch='ViT-B/32', lora_rank=4))
        assert plain == dict(type='LoRACLIPClassifier', arch='ViT-B/32', encoder='none')

    def test_the_tower_alone_tells_a_runner_what_it_is(self):
        with pytest.raises(TypeError, match="the vision tower of CLIP alone.*encoder='both'"):
            LoRACLIP(arch=VISION).train_step({}, None)

    @pytest.mark.parametrize('kwargs, error, message', [
        (dict(encoder='image'), ValueError, "unknown encoder 'image': choose one of"),
        (dict(tokenisr=1), TypeError, "unknown argument 'tokenisr': did you mean one of .*tokenizer"),
        (dict(lora_ranks=1), TypeError, 'lora_rank'),
        (dict(classes=['a'], tokenisr=1), TypeError, 'tokenizer'),
        (dict(encoder='both', arch=VISION), ValueError, 'the arch gives no embed_dim, text_width, text_layers'),
        (dict(arch=VISION, img_size=32), TypeError, r"\['img_size'\] follow from arch"),
        (dict(arch=VISION, params='qx'), ValueError, "got 'qx'"),
        (dict(arch=VISION, lora_rank=99), ValueError, 'rank of slice'),
        (dict(clip_tiny.SMALL, lora_rank=0), ValueError, 'rank'),
        (dict(clip_tiny.SMALL, text_chunk=0), ValueError, 'text_chunk must be'),
        (dict(clip_tiny.SMALL, text_chunk=True), ValueError, 'text_chunk must be .*got True'),
        (dict(clip_tiny.SMALL, text_chunk='all'), ValueError, "text_chunk must be .*got 'all'"),
        (dict(clip_tiny.SMALL, templates='a photo'), ValueError, r'templates must each have one \{\}'),
        (dict(clip_tiny.SMALL, templates=[]), ValueError, 'templates must'),
        (dict(clip_tiny.SMALL, classes='dog'), TypeError, "classes must be a list of names, got 'dog'"),
        (dict(clip_tiny.SMALL, classes=['dog', ' ']), ValueError, 'not empty'),
        (dict(clip_tiny.SMALL, classes=['zebra']), ValueError, "'zebra' of 'a photo of a zebra.'"),
        (dict(clip_tiny.SMALL, classes=['big ' * 9]), ValueError, "the prompt 'a photo of a big .*' has .*context 14"),
        (dict(clip_tiny.SMALL, arch=dict(clip_tiny.ARCH, vocab_size=9)), ValueError, 'WordTokenizer has 15 tokens'),
    ])  # fmt: skip
    def test_bad(self, kwargs, error, message):
        with pytest.raises(error, match=message):
            LoRACLIP(**kwargs)


class TestPrediction:
    def test_samples_are_filled_and_accuracy_reads_them(self):
        model = clip_tiny.small_model().eval()
        x, metric = clip_tiny.images(), Accuracy(topk=(1, 2))
        results = model.predict(x, samples([0, 1, 2]))
        scores = model(x).softmax(-1)
        for result, score, label in zip(results, scores, (0, 1, 2), strict=True):
            torch.testing.assert_close(result.pred_score, score)
            assert int(result.pred_label) == int(score.argmax()) and int(result.gt_label) == label
        metric.process([], [result.to_dict() for result in results])
        expected = (scores.argmax(-1) == torch.arange(3)).double().mean().item() * 100
        assert metric.evaluate(3)['accuracy/top1'] == pytest.approx(expected, abs=1e-4)
        assert len(model.predict(x)) == 3

    def test_class_names_are_needed(self):
        model = LoRACLIPClassifier(**{**clip_tiny.SMALL, 'classes': None})
        assert model.classes is None
        for mode in ('tensor', 'predict', 'loss'):
            with pytest.raises(RuntimeError, match='no class names.*ClassNamesHook'):
                model(clip_tiny.images().float(), samples([0, 1, 2]), mode)
        model._dataset_meta = dict(classes=('dog', 'cat'))  # as mmpretrain's get_model leaves it
        assert model(clip_tiny.images().float()).shape == (3, 2) and model.classes == ('dog', 'cat')
        with pytest.raises(ValueError, match='a sample has the label 2, and there are 2 class names'):
            model(clip_tiny.images().float(), samples([0, 1, 2]), 'loss')
        with pytest.raises(RuntimeError, match="mode must be 'tensor', 'predict' or 'loss', got 'x'"):
            model(clip_tiny.images().float(), mode='x')

    def test_other_losses_and_soft_labels(self):
        head = dict(type='ClsHead', loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'))
        model = clip_tiny.small_model(head=head)
        logits = model(clip_tiny.images())
        soft = F.one_hot(torch.tensor([1, 2, 0]), 4).double() * 0.9 + 0.025
        expected = -(soft * logits.log_softmax(-1)).sum(-1).mean()
        actual = model(clip_tiny.images(), samples([1, 2, 0]), 'loss')['loss']
        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=0)


class TestLoading:
    def test_a_checkpoint_of_the_model_comes_back(self, tmp_path):
        model, other = clip_tiny.small_model(), clip_tiny.small_model(seed=3)
        x = clip_tiny.images()
        assert not torch.allclose(other.eval()(x), model.eval()(x))
        save_checkpoint(dict(state_dict=model.state_dict()), str(tmp_path / 'model.pth'))
        load_checkpoint(other, str(tmp_path / 'model.pth'))
        assert torch.equal(other(x), model(x))
        twins = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
        assert all(torch.equal(twin(x), model(x)) for twin in twins)

    @pytest.mark.parametrize('names', ['ours', 'published'])
    def test_init_cfg(self, tmp_path, names):
        model = clip_tiny.small_model()
        state = {k: v for k, v in model.state_dict().items() if 'lora_' not in k}
        if names == 'published':
            state = restore_openai_keys(state)
        torch.save(state, tmp_path / 'clip.pth')
        init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'clip.pth'))
        other = LoRACLIPClassifier(**clip_tiny.SMALL, init_cfg=init_cfg).double()
        other.init_weights()
        for key, value in other.state_dict().items():
            assert 'lora_' in key or torch.equal(value, model.state_dict()[key]), key
        if names == 'published':
            tower = LoRACLIPVision(VISION, init_cfg=init_cfg).double()
            tower.init_weights()
            assert torch.equal(tower.pos_embed, model.visual.pos_embed)

    @pytest.mark.parametrize('kind, words, left', [
        ('classifier', 'taken for the text tower', 'nothing'), ('tower', None, 'logit_'), ('images', None, 'text.')])
    def test_the_log_says_what_is_left_out(self, tmp_path, monkeypatch, kind, words, left):
        said = []
        for module in ('pretrained', 'clip.classifier'):
            monkeypatch.setattr(f'mmlora.models.{module}.print_log', lambda text, *a, **k: said.append(text))
        state = {k: v for k, v in clip_tiny.small_model().state_dict().items() if 'lora_' not in k}
        torch.save(restore_openai_keys(state), tmp_path / 'clip.pth')
        init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'clip.pth'))
        {'classifier': lambda: LoRACLIPClassifier(**clip_tiny.SMALL, init_cfg=init_cfg),
         'tower': lambda: LoRACLIPVision(VISION, init_cfg=init_cfg),
         'images': lambda: CLIPImageEncoder(clip_tiny.ARCH, init_cfg=init_cfg)}[kind]().init_weights()
        text = '\n'.join(said)
        assert left in text.split('no place for them: ')[1].split('\n')[0]
        assert words is None or words in text
        assert ('visual_proj' in text) == (kind == 'tower')

    def test_weights_of_hugging_face(self, tmp_path):
        transformers = pytest.importorskip('transformers')
        sizes = dict(intermediate_size=32, hidden_act='quick_gelu')
        arch = dict(clip_tiny.ARCH, text_width=16)
        config = transformers.CLIPConfig(
            vision_config=dict(sizes, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, image_size=16,
                               patch_size=8, projection_dim=12, intermediate_size=64),
            text_config=dict(sizes, hidden_size=16, num_hidden_layers=4, num_attention_heads=2, vocab_size=15,
                             max_position_embeddings=14, projection_dim=12, intermediate_size=64, eos_token_id=14),
            projection_dim=12,
        )  # fmt: skip
        torch.manual_seed(0)
        theirs = transformers.CLIPModel(config).eval().double()
        torch.save(theirs.state_dict(), tmp_path / 'hf.pth')
        init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'hf.pth'))
        ours = LoRACLIPClassifier(
            **{**clip_tiny.SMALL, 'arch': arch}, logit_scale='pretrained', init_cfg=init_cfg).double()
        ours.init_weights()
        with torch.no_grad():
            expected = theirs(input_ids=ours._tokens, pixel_values=clip_tiny.images()).logits_per_image
            torch.testing.assert_close(ours.eval()(clip_tiny.images()), expected, rtol=0, atol=1e-6)

    def test_weights_of_something_else(self, tmp_path):
        torch.save(VisionTransformer(arch='deit-tiny', img_size=32).state_dict(), tmp_path / 'vit.pth')
        init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'vit.pth'))
        with pytest.raises(ValueError, match='lacks|no logit_scale'):
            LoRACLIPClassifier(**clip_tiny.SMALL, init_cfg=init_cfg).init_weights()

    def test_another_image_size_resizes_the_position_embedding(self):
        model = clip_tiny.small_model(image_size=32).eval()
        model.load_state_dict(clip_tiny.small_model().state_dict())
        assert model(clip_tiny.images(size=32)).shape == (3, 4)

    @pytest.mark.parametrize('key', [
        'text.ln_final.weight', 'text.token_embedding.weight', 'visual.cls_token', 'visual_proj.proj', 'logit_scale',
        'text.transformer.resblocks.0.attn.in_proj_weight', 'text.transformer.resblocks.3.attn.lora_A_q',
    ])  # fmt: skip
    def test_a_missing_tensor_is_an_error(self, key):
        model = clip_tiny.small_model()
        state = model.state_dict()
        del state[key]
        with pytest.raises(ValueError, match=key.removeprefix('visual.').removeprefix('text.').split('.')[-1]):
            model.load_state_dict(state, strict=False)

    def test_other_ranks_and_shapes_are_errors(self):
        model = clip_tiny.small_model()
        with pytest.raises(ValueError, match='another rank'):
            model.load_state_dict(clip_tiny.small_model(lora_rank=3).state_dict(), strict=False)
        with pytest.raises(ValueError, match='in another shape'):
            model.load_state_dict(clip_tiny.small_model(arch=dict(clip_tiny.ARCH, embed_dim=6)).state_dict())
        with pytest.raises(ValueError, match='adapts other modules'):
            model.load_state_dict(clip_tiny.small_model(encoder='text', params='v').state_dict(), strict=False)


def test_text_that_is_not_needed_costs_nothing():
    """The text tower runs once for many batches in evaluation, and once in training too where it is frozen."""
    def text_flops(model, steps=1):
        counter = FlopCounterMode(display=False)
        with counter:
            for _ in range(steps):
                model.class_features()
        return counter.get_total_flops()

    model = clip_tiny.small_model(encoder='vision').train()
    assert text_flops(model) > 0 and text_flops(model, 3) == 0
    model = clip_tiny.small_model().eval()
    with torch.no_grad():
        assert text_flops(model) > 0 and text_flops(model, 3) == 0
    once = text_flops(model.train())
    assert text_flops(model, 3) == 3 * once > 0
