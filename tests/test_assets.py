import os
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import load_checkpoint
from mmpretrain.models import VisionTransformer
from safetensors.torch import load_file

from mmlora import assets
from mmlora.apis.episodes import build_backbone, glyph_benchmark
from mmlora.apis.export import export_backbone

CONFIGS = Path(__file__).parents[1] / 'configs'
CONFIG = CONFIGS / 'glyphs' / 'vit-micro_muon-10e_glyphs.py'
NAME = 'vit-micro_glyphs'


def backbone():
    cfg = Config.fromfile(str(CONFIGS / '_base_' / 'models' / 'vit-micro.py')).model.backbone
    return VisionTransformer(**{k: v for k, v in cfg.items() if k != 'type'})


def test_path_is_absolute_and_the_ending_is_optional():
    path = assets.path(NAME)
    assert os.path.isabs(path) and os.path.isfile(path) and path == assets.path(f'{NAME}.safetensors')
    assert NAME in assets.names()


def test_unknown_name_lists_those_that_exist():
    with pytest.raises(ValueError, match=f"no weights 'vit-giga'; choose from .*{NAME}"):
        assets.path('vit-giga')


def test_every_asset_is_small_and_has_a_card():
    for name in assets.names():
        path = Path(assets.path(name))
        assert path.stat().st_size < 4e6
        assert 'python tools/' in path.with_suffix('.md').read_text(encoding='utf-8')


def test_weights_fit_mmpretrains_vision_transformer_exactly():
    state = load_file(assets.path(NAME))
    model = backbone()
    model.load_state_dict(state, strict=True)
    assert sum(p.numel() for p in model.parameters()) < 1e6
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in state.values())


def test_scheme_loads_through_mmengine():
    model, state = backbone(), load_file(assets.path(NAME))
    load_checkpoint(model, f'mmlora://{NAME}', strict=True)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, state[key], rtol=0, atol=0)


@pytest.mark.slow
def test_features_transfer_to_unseen_scripts():
    trained, untrained, pixels = glyph_benchmark(
        Config.fromfile(str(CONFIG)), f'mmlora://{NAME}', 'test', n_episodes=60
    )
    assert trained.accuracy >= untrained.accuracy + 25
    assert trained.accuracy >= pixels.accuracy + 15


def test_exported_backbone_equals_the_checkpoints(tmp_path):
    cfg = Config.fromfile(str(CONFIG))
    model, _ = build_backbone(cfg)
    state = {f'backbone.{key}': value for key, value in model.state_dict().items()}
    torch.save(
        dict(meta=dict(epoch=1), state_dict=dict(state, **{'head.fc.weight': torch.ones(2, 2)})), tmp_path / 'a.pth'
    )
    out = export_backbone(tmp_path / 'a.pth', tmp_path / 'out' / 'b.safetensors')
    again, _ = build_backbone(cfg, str(out))
    for key, value in again.state_dict().items():
        torch.testing.assert_close(value, state[f'backbone.{key}'], rtol=0, atol=0)
    with pytest.raises(ValueError, match='must end in .safetensors'):
        export_backbone(tmp_path / 'a.pth', tmp_path / 'b.pth')
