"""The configs of hubs: the published settings, and the commands of their page."""

import re

import pytest
from mmengine.config import Config
from mmpretrain.registry import MODELS

from mmlora.adapters import MERGES, draw_lora
from mmlora.apis.hub_plan import settle_hub
from mmlora.models.backbones.skeleton import Skeleton

CONFIGS = ['vit-micro_glyphs', *(f'clip-vit-base-p{p}_{name}' for p in (16, 32) for name in (
    'cifar-fs', 'mini-imagenet', 'cub', 'vgg-flower', 'mix'))]


def test_every_config_of_a_hub_is_known(root):
    assert {path.stem for path in (root / 'configs' / 'lora_recycle').glob('hub_*.py')} == {
        f'hub_{name}-5way' for name in CONFIGS}


@pytest.mark.parametrize('name', CONFIGS)
def test_configs_have_the_published_settings(root, name):
    cfg = settle_hub(Config.fromfile(root / 'configs' / 'lora_recycle' / f'hub_{name}-5way.py'))
    assert (cfg.hub.rank, cfg.hub.slices, cfg.hub.scaling, cfg.hub.n_way, cfg.hub.num_loras) == (4, 'qv', 1.0, 5, 100)
    assert cfg.optim_wrapper.optimizer == dict(type='Adam', lr=1e-3) and cfg.optim_wrapper.clip_grad.max_norm == 50
    with Skeleton():
        model = MODELS.build(cfg.model.backbone)
    if name.startswith('clip'):
        assert cfg.hub.batch_size == 64 and cfg.model.backbone.arch == f'ViT-B/{name[len("clip-vit-base-p"):][:2]}'
        sites = [site for site, layer in model.named_modules() if site.endswith('attn.qkv')]
        count = sum(pair.a.numel() + pair.b.numel() for pair in draw_lora(model, sites, 4).values())
        assert count == 147_456
        assert all(source.classes.startswith('lora_recycle/') for source in cfg.hub.sources)


def test_commands_of_the_page_name_what_exists(root):
    page = (root / 'docs' / 'hub.md').read_text(encoding='utf-8')
    lines = [line.split() for text in re.findall(r'^```bash\n(.*?)^```$', page, re.MULTILINE | re.DOTALL)
             for line in text.splitlines()]
    assert len(lines) == 4
    for _, tool, *words in lines:
        text = (root / tool).read_text(encoding='utf-8')
        assert all(f"'{word}'" in text for word in words if word.startswith('--'))
        assert all((root / word).is_file() for word in words if word.startswith('configs/'))
    table = page.split('| method |')[1].split('\n\n')[0]
    assert re.findall(r'^\| `(\w+)` \|', table, re.MULTILINE) == list(MERGES)
