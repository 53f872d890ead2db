"""A checkpoint that does not fit is an error that lists the keys."""

import copy

import pytest
import tiny
import torch

from mmlora.apis import test as run_test
from mmlora.apis import train
from mmlora.engine import StrictLoadHook
from mmlora.engine.hooks.strict_load_hook import KeyReport, compare_keys

LORA = dict(model__backbone__type='VitSR_LoRA', model__backbone__lora_ranks=2)
NORM = 'backbone.ln1.weight'


@pytest.fixture(scope='module')
def good(whole_run):
    return torch.load(whole_run / 'epoch_2.pth', weights_only=True)


def spoiled(good, tmp_path, change):
    checkpoint = copy.deepcopy(good)
    checkpoint['state_dict'] = change(dict(checkpoint['state_dict']))
    torch.save(checkpoint, tmp_path / 'spoiled.pth')
    return str(tmp_path / 'spoiled.pth')


def without(*keys):
    return lambda state: {key: value for key, value in state.items() if key not in keys}


BAD = {
    'missing': (without(NORM), f'1 missing: {NORM}'),
    'unexpected': (lambda s: {**s, 'neck.weight': torch.ones(2)}, '1 unexpected: neck.weight'),
    'misshapen': (lambda s: {**s, NORM: torch.ones(3)}, r'1 of another shape .*backbone.ln1.weight \(3,\) for \(16,\)'),
    'many': (lambda s: {'x.' + k: v for k, v in s.items()}, r'missing: (\S+, ){9}\S+ \.\.\.'),
    'head': (lambda s: {**s, 'head.layers.head.bias': torch.ones(5)}, 'head.layers.head.bias'),
}


@pytest.mark.parametrize('case', BAD)
def test_test_and_resume_refuse_a_checkpoint_that_does_not_fit(tmp_path, images, good, case):
    change, message = BAD[case]
    path = spoiled(good, tmp_path, change)
    with pytest.raises(ValueError, match=message):
        run_test(tiny.tiny_config(images, tmp_path), path)
    with pytest.raises(ValueError, match=message):
        train(tiny.tiny_config(images, tmp_path), resume=path)
    if case not in ('head', 'unexpected'):
        with pytest.raises(ValueError, match=message):
            train(tiny.tiny_config(images, tmp_path, load_from=path))


def test_fine_tuning_leaves_out_what_the_model_has_no_place_for(tmp_path, images, good):
    path = spoiled(good, tmp_path, lambda s: {**s, **{f'neck.{i}.weight': torch.ones(2) for i in range(30)}})
    train(tiny.tiny_config(images, tmp_path, load_from=path, train_cfg__max_epochs=1))
    log = ''.join(file.read_text() for file in tmp_path.rglob('*.log'))
    assert 'holds more than the model takes: 30 unexpected: neck.0.weight' in log


def test_fine_tuning_takes_another_head_and_fresh_adapters(tmp_path, images, good):
    path = spoiled(good, tmp_path, lambda s: {**s, 'head.layers.head.weight': torch.ones(5, 16)})
    runner = train(tiny.tiny_config(images, tmp_path, load_from=path, train_cfg__max_epochs=1, **LORA))
    frozen = runner.model.state_dict()
    assert torch.equal(frozen['backbone.layers.0.attn.qkv.weight'],
                       good['state_dict']['backbone.layers.0.attn.qkv.weight'])
    assert frozen['head.layers.head.weight'].shape == (3, 16)


def test_a_checkpoint_without_adapters_cannot_be_tested_with_them(tmp_path, images, whole_run):
    with pytest.raises(ValueError, match='12 missing: .*lora_A'):
        run_test(tiny.tiny_config(images, tmp_path, **LORA), str(whole_run / 'epoch_2.pth'))


def test_exact_names_may_be_allowed(tmp_path, images, good):
    def change(state):
        return {**without(NORM)(state), 'neck.weight': torch.ones(2)}

    path = spoiled(good, tmp_path, change)
    hook = dict(type='StrictLoadHook', allow_missing=[NORM], allow_unexpected=['neck.weight'])
    assert run_test(tiny.tiny_config(images, tmp_path, custom_hooks=[hook]), path)
    hook = dict(hook, allow_missing=['backbone.ln1'])
    with pytest.raises(ValueError, match=NORM):
        run_test(tiny.tiny_config(images, tmp_path, custom_hooks=[hook]), path)
    with pytest.raises(TypeError, match='list of names'):
        StrictLoadHook(allow_missing='backbone.ln1')


def test_wrapper_prefixes_and_what_load_hooks_convert_are_no_difference(tmp_path, images, good):
    path = spoiled(good, tmp_path, lambda s: {'module.' + k: v for k, v in s.items()})
    assert run_test(tiny.tiny_config(images, tmp_path), path)
    larger = tiny.tiny_config(images, tmp_path, model__backbone__img_size=64, train_cfg__max_epochs=1)
    larger.merge_from_dict({'load_from': path})
    larger.train_dataloader.dataset.pipeline[1].scale = 64
    train(larger, validate=False)  # The position embedding is resized by the backbone.


def test_derived_buffers_may_be_missing():
    model = torch.nn.BatchNorm1d(3)
    report = compare_keys(model, {'weight': torch.ones(3), 'bias': torch.ones(3), 'running_mean': torch.ones(3)})
    assert report == KeyReport(['running_var'], [], {})
