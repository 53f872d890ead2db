"""Generators end to end: features with LoRAs that are no parameters, task encoders, and steps on three backbones."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from mmlora.adapters import adapt_with, draw_lora
from mmlora.adapters.lora_spec import LoRASpec, lora_tensors
from mmlora.models.generators import EpisodicGenerator, MeanFeature, PrototypeStats, SetEncoder, SupportGradient
from mmlora.models.generators.functional import FrozenFeatures
from mmlora.models.generators.support import support_loss, support_scores

CONFIGS = Path(__file__).resolve().parents[2] / 'configs' / 'icm_lora'
VIT = dict(arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32), img_size=32, patch_size=8)
SWIN = dict(arch=dict(embed_dims=8, depths=[2, 2], num_heads=[2, 2]), img_size=32, window_size=4, out_indices=(1,))
CLIP_ARCH = dict(embed_dim=16, image_size=32, vision_layers=2, vision_width=16, vision_heads=2, patch_size=8,
                 context_length=8, vocab_size=8, text_width=8, text_heads=2, text_layers=1)
BACKBONES = {
    'vit-base-p16': (VIT, 16, ('attn.qkv',)), 'swin-base-w7': (SWIN, 16, ('attn.w_msa.qkv',)),
    'clip-vit-base-p16': (dict(arch=CLIP_ARCH), 16, ('attn.qkv',)),
}  # fmt: skip


def tiny(name: str) -> Config:
    """The config of a backbone, shrunk."""
    init_default_scope('mmpretrain')
    cfg = Config.fromfile(CONFIGS / f'layer-hyper-net-episodic_{name}_mini-imagenet-5way.py')
    changes, width, _ = BACKBONES[name]
    backbone = {key: value for key, value in cfg.model.backbone.items() if key != 'init_cfg'} | changes
    cfg.model.backbone = backbone
    cfg.model.generator.update(description_dim=2 * width, embed_dim=8, hidden_dim=16)
    cfg.model.generator.task_encoder.update(feature_dim=width, out_dim=8, hidden_dim=16)
    cfg.model.lora.rank = 2
    return cfg


def episodes(count: int = 2, n_way: int = 2, n_shot: int = 2) -> tuple[torch.Tensor, list[DataSample]]:
    samples = []
    for number in range(count):
        for support, each in ((True, n_shot), (False, 1)):
            for place in range(each * n_way):
                sample = DataSample().set_gt_label(place % n_way)
                sample.set_metainfo(dict(episode=number, support=support, lora=None, source=None))
                samples.append(sample)
    return torch.randn(len(samples), 3, 32, 32, generator=torch.Generator().manual_seed(0)), samples


@pytest.mark.parametrize('name', BACKBONES)
def test_configs_build_and_learn(name: str) -> None:
    torch.manual_seed(0)
    model = MODELS.build(tiny(name).model).train()
    images, samples = episodes()
    support = [torch.arange(4), torch.arange(6, 10)]
    labels = torch.tensor([int(sample.gt_label) for sample in samples])
    with pytest.raises(ValueError, match='statistics'):
        model.loss(images, samples)
    model.fit_bank()
    model.fit_conditions([(images[own], labels[own]) for own in support])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):
        found = model(images, samples, mode='loss')
        assert {key for key in found if 'loss' in key} == {'loss_query'}
        optimizer.zero_grad()
        found['loss_query'].backward()
        optimizer.step()
    after = model.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert not any(key.startswith('backbone.') for key in changed)
    learned = {key for key, p in model.named_parameters() if p.requires_grad}
    assert changed == learned and any(key.startswith('generator.task_encoder.phi') for key in changed)
    # With LoRAs of a bank both losses count, and none is summed twice.
    samples[0].set_field(torch.randn(model.generator.spec.length), 'lora_vector')
    assert {'loss_query', 'loss_recon'} == {key for key in model.loss(images, samples) if 'loss' in key}


@pytest.mark.parametrize('name', BACKBONES)
def test_functional_features_equal_adapted_ones(name: str) -> None:
    cfg = tiny(name).model
    torch.manual_seed(0)
    backbone, (_, _, targets) = MODELS.build(cfg.backbone).double(), BACKBONES[name]
    backbone.eval()  # which mmpretrain's do not return
    neck = MODELS.build(cfg.neck) if cfg.get('neck') else None
    sites = [site for site, _ in backbone.named_modules() if site.endswith(targets)]
    loras, images = [], torch.randn(4, 3, 32, 32, dtype=torch.float64)
    for number in range(2):
        drawn = draw_lora(backbone, sites, 2, 'qv', 0.5, torch.Generator().manual_seed(number))
        loras.append({site: pair._replace(b=torch.randn_like(pair.b)) for site, pair in drawn.items()})
    spec = LoRASpec.of_weights(loras[0])
    tensors = {key: torch.stack([lora_tensors(own)[key] for own in loras]) for key in spec.keys}
    frozen = FrozenFeatures(backbone, neck)
    plain, found = frozen(images), frozen(images, spec, tensors)
    assert torch.equal(frozen(images), plain)  # nothing is left behind
    with pytest.raises(ValueError, match='do not divide'):
        frozen(images[:3], spec, tensors)
    for number, own in enumerate(loras):
        torch.manual_seed(0)
        other = MODELS.build(cfg.backbone).double()
        adapt_with(other, own)
        other.eval()
        part = slice(2 * number, 2 * number + 2)
        torch.testing.assert_close(found[part], FrozenFeatures(other, neck)(images[part]), rtol=1e-10, atol=1e-10)
        assert (found[part] - plain[part]).abs().max() > 1e-3


class Flat:
    """Features of images that are features already."""

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return images


@pytest.mark.parametrize('encoder', [MeanFeature(), PrototypeStats(), SetEncoder(5, 4, 8).double()])
def test_encoders_do_not_see_orders(encoder: torch.nn.Module) -> None:
    images = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels, order = torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([3, 5, 1, 0, 2, 4])

    def condition(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return encoder(encoder.describe(Flat(), None, images, labels)[None])

    first = condition(images, labels)
    torch.testing.assert_close(first, condition(images[order], (2 - labels)[order]), rtol=1e-10, atol=1e-10)
    assert not torch.allclose(first, condition(images.flip(1), labels))
    for bad, said in ((labels[:0], 'empty'), (labels * 0, 'one class'), (labels * 2, 'without gaps')):
        with pytest.raises(ValueError, match=said):
            encoder.describe(Flat(), None, images[: len(bad)], bad)


def test_prototype_statistics_are_those_of_the_classes() -> None:
    images = torch.tensor([[0.0, 1], [2, 1], [4, 3], [4, 7]])
    found = PrototypeStats().describe(Flat(), None, images, torch.tensor([0, 0, 1, 1]))
    assert found.tolist() == [2.5, 3, 1.5, 2, 0.5, 1]  # means (1, 1) and (4, 5); deviations (1, 0) and (0, 2)


def test_the_gradient_is_that_of_the_support_loss() -> None:
    torch.manual_seed(0)
    model: EpisodicGenerator = MODELS.build(tiny('vit-base-p16').model).double()
    model.fit_bank()
    images, labels = torch.randn(4, 3, 32, 32, dtype=torch.float64), torch.tensor([0, 0, 1, 1])
    codec = model.generator.codec
    found = SupportGradient(temperature=10.0).describe(model.frozen, codec, images, labels)
    assert found.shape == (codec.spec.length,) and found.abs().max() > 0
    step = 1e-4 * torch.nn.functional.one_hot(found.abs().argmax(), len(found)).double()
    losses = [support_loss(model.frozen(images, codec.full_spec, codec.tensors(sign * step[None])), labels,
                           temperature=10.0) for sign in (1, -1)]
    assert float((losses[0] - losses[1]) / 2e-4) == pytest.approx(float(found[found.abs().argmax()]), rel=1e-4)
    with pytest.raises(ValueError, match="factors='B'"):
        SupportGradient().describe(model.frozen, None, images, labels)


def test_support_images_are_left_out_of_their_means() -> None:
    features = torch.tensor([[0.0], [2], [10], [14], [50]])
    scores = support_scores(features, torch.tensor([0, 0, 1, 1, 2]))
    assert scores[0].tolist() == [-4, -144, -2500]  # the other of its class at 2, the mean of class 1 at 12, class 2
    assert scores[4].tolist() == [-49**2, -38**2, 0]  # the only one of its class stays


def test_bad_models_are_refused() -> None:
    cfg = tiny('vit-base-p16').model
    for changes, said in ((dict(lora=None), 'needs a bank'), (dict(query_weight=-1), 'query_weight'),
                          (dict(generator=dict(type='PCARidge', description_dim=16)), 'end to end')):
        with pytest.raises(ValueError, match=said):
            MODELS.build({**cfg, **changes})
