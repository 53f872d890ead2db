"""The models of all configs: at full size without memory for their names and counts, and shrunk to run them."""

from importlib.metadata import distribution

import catalogue
import pytest
import torch
import yaml
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from mmlora.models.backbones.skeleton import Skeleton

COUNTS = {
    # arch: (factors as published, frozen weights of mmpretrain's backbone)
    'vit-base-p16': (3_889_152, 86_090_496),
    'vit-large-p16': (12_955_648, 303_690_752),
    'swin-base-w12': (3_686_400, 86_878_584),
}
MODEL_NAMES = catalogue.distinct(catalogue.model_key, catalogue.with_backbone())


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmpretrain')


@pytest.mark.parametrize('name', MODEL_NAMES, ids=catalogue.short)
def test_the_whole_model_and_its_optimizer(name):
    cfg = catalogue.without_weights(catalogue.load(name))
    with Skeleton():
        model = MODELS.build(cfg.model)
    learned = {key: p for key, p in model.named_parameters() if p.requires_grad}
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    groups = {id(p): group for group in wrapper.optimizer.param_groups for p in group['params'] if p.requires_grad}
    assert set(groups) == {id(p) for p in learned.values()}
    if name not in catalogue.sr_lora():
        return
    arch = name.split('sr-lora_')[1].split('_')[0]
    assert all('.lora_A' in key or '.lora_B' in key for key in learned if key.startswith('backbone.'))
    assert {key for key in learned if not key.startswith('backbone.')} == {'head.fc.weight', 'head.fc.bias'}
    factors = sum(p.numel() for key, p in learned.items() if key.startswith('backbone.'))
    frozen = [p for p in model.backbone.parameters() if not p.requires_grad]
    if cfg.model.backbone.img_size == 384:
        assert (factors, sum(p.numel() for p in frozen)) == COUNTS[arch]
    else:
        assert factors == COUNTS[arch][0] and model.backbone.pos_embed.shape == (1, 14 * 14 + 1, 768)
    decays = {key: groups[id(p)]['weight_decay'] for key, p in learned.items()}
    assert decays['head.fc.bias'] == (0 if 'swin' in name else cfg.optim_wrapper.optimizer.weight_decay)
    assert {value for key, value in decays.items() if 'lora' in key} == {cfg.optim_wrapper.optimizer.weight_decay}


def test_the_scaling_is_the_published_one():
    for name in catalogue.distinct(lambda cfg: cfg.model.backbone, catalogue.sr_lora()):
        with Skeleton():
            backbone = MODELS.build(catalogue.without_weights(catalogue.load(name)).model.backbone)
        layer = next(m for m in backbone.modules() if hasattr(m, 'scalings'))
        assert layer.scalings == {part: 1 / rank for part, rank in layer.ranks.items()}


def public_weights():
    """The addresses of all weights in the metafiles of the installed mmpretrain."""
    top = distribution('mmpretrain').locate_file('mmpretrain') / '.mim' / 'configs'
    for folder in ('vision_transformer', 'swin_transformer'):
        models = yaml.safe_load((top / folder / 'metafile.yml').read_text())['Models']
        yield from ((model['Name'], model['Weights']) for model in models if 'Weights' in model)


def test_weights_are_those_of_mmpretrain():
    addresses = dict(public_weights())
    wanted = {
        'VitSR_LoRA base': 'vit-base-p16_in21k-pre_3rdparty_in1k-384px',
        'VitSR_LoRA large': 'vit-large-p16_in21k-pre_3rdparty_in1k-384px',
        'SwinSR_LoRA base': 'swin-base_in21k-pre-3rdparty_in1k-384',
    }
    for name in catalogue.distinct(lambda cfg: cfg.model.backbone, catalogue.sr_lora()):
        backbone = catalogue.load(name).model.backbone
        address = addresses[wanted[f'{backbone.type} {backbone.arch}']]
        assert dict(backbone.init_cfg) == dict(type='Pretrained', checkpoint=address, prefix='backbone.')


@pytest.mark.parametrize('name', MODEL_NAMES, ids=catalogue.short)
def test_the_shrunk_model_learns(name):
    cfg = catalogue.shrunk(catalogue.load(name))
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.train()
    size = catalogue.image_size(cfg)
    labels = [[0, 2], []] if cfg.model.head.type == 'MultiLabelLinearClsHead' else [0, 1]
    samples = [DataSample().set_gt_label(torch.tensor(label, dtype=torch.long)) for label in labels]
    if cfg.model.head.get('loss', {}).get('use_soft'):
        for sample, score in zip(samples, torch.eye(cfg.model.head.num_classes), strict=False):
            sample.set_gt_score(score)
    learned = {key: p for key, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.SGD(learned.values(), lr=0.1)
    moved = set()
    # Where a factor or the head starts at zero, what stands before it gets no gradient until it has moved.
    for _ in range(3):
        optimizer.zero_grad()
        loss = model(torch.randn(2, 3, size, size), samples, mode='loss')['loss']
        loss.backward()
        assert loss.isfinite()
        moved |= {key for key, p in learned.items() if p.grad is not None and p.grad.any()}
        optimizer.step()
    assert moved == set(learned)
    with torch.no_grad():
        predicted = model.eval()(torch.randn(2, 3, size, size), samples, mode='predict')
    assert predicted[0].pred_score.shape == (cfg.model.head.num_classes,)
