"""clip-micro as it comes with the package."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from safetensors.torch import load_file

from mmlora import assets
from mmlora.datasets import FewShotGlyphs, Glyphs
from mmlora.io.checkpoint import load_checkpoint

CONFIGS = Path(__file__).parents[2] / 'configs'
NAME = 'clip-micro_glyphs'


@pytest.fixture(scope='module')
def model():
    init_default_scope('mmpretrain')
    cfg = Config.fromfile(str(CONFIGS / 'clip_micro' / 'zero-shot_clip-micro_unseen-combinations.py'))
    model = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor)).eval()
    model.load_state_dict(load_checkpoint(f'mmlora://{NAME}'), strict=True)
    return model


@torch.no_grad()
def accuracy(model, dataset):
    model.set_classes(dataset.metainfo['classes'])
    batch = model.data_preprocessor(pseudo_collate([dataset[i] for i in range(len(dataset))]))
    labels = torch.cat([sample.gt_label for sample in batch['data_samples']])
    return 100 * float((model.logits(batch['inputs']).argmax(dim=1) == labels).double().mean())


def test_weights_fit_and_are_small(model):
    state = load_file(assets.path(NAME))
    assert sum(value.numel() for value in state.values()) < 1e6
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in state.values())
    card = Path(assets.path(NAME)).with_suffix('.md').read_text(encoding='utf-8')
    assert f'{sum(value.numel() for value in state.values()):,}' in card
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, state[key], rtol=0, atol=0)


def test_pretraining_and_tests_have_the_same_towers():
    pretraining = Config.fromfile(str(CONFIGS / 'clip_micro' / 'clip-micro_muon_glyphs.py'))
    init_default_scope('mmpretrain')
    built = MODELS.build(pretraining.model)
    built.load_state_dict(load_file(assets.path(NAME)), strict=True)
    assert pretraining.train_dataloader.dataset.combinations == 'seen'


def test_names_of_combinations_that_it_never_saw_are_known(model):
    dataset = FewShotGlyphs('test', held_out='combinations', n_test=3, pipeline=[dict(type='PackInputs')])
    assert accuracy(model, dataset) > 65  # 78.1 with 10 images of each, and 2.8 by chance


def test_every_name_has_tokens(model):
    for split in ('train', 'val', 'test'):
        model.set_classes(Glyphs(split, samples_per_class=1).metainfo['classes'])
    assert model.tokenizer.vocab_size == model.arch.vocab_size
