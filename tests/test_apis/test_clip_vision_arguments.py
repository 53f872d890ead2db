"""Further arguments of CLIP's vision tower in adapter folders, and what other libraries cannot hold of them."""

import json
import re

import clip_folders
import clip_tiny
import numpy as np
import pytest
import tiny
import torch
from mmengine.config import Config
from PIL import Image

import mmlora.clip
from mmlora.engine.clip_images import LOAD
from mmlora.engine.clip_record import why_no_folder, write_run
from mmlora.io.clip_folder import read_folder
from mmlora.io.clip_vision import why_no_vision, why_not_elsewhere
from mmlora.models import LoRACLIPClassifier
from mmlora.models.clip.settings import check_structure, describe_clip

WINDOWS = dict(patch_cfg=dict(kernel_size=12, padding=2))
"""Windows of 12 pixels that overlap, 8 apart."""

PACKED = [dict(type='PackInputs')]


def make_folder(tmp_path, vision=WINDOWS, pipeline=PACKED):
    """Write the folder of a model with this vision tower, and its base as a checkpoint of this package."""
    torch.manual_seed(0)
    model = LoRACLIPClassifier(**clip_tiny.SMALL, vision=vision)
    model.init_weights()
    clip_tiny.fill(model).eval()
    base = tmp_path / 'base.pth'
    torch.save(dict(state_dict=model.state_dict()), base)
    cfg = Config(dict(
        model=dict(tokenizer=clip_tiny.SMALL['tokenizer'], init_cfg=dict(type='Pretrained', checkpoint=str(base))),
        test_dataloader=dict(dataset=dict(pipeline=pipeline)),
    ))
    return write_run(tmp_path / 'adapter', cfg, model, dict(dataset_name='animals')), model


def test_a_folder_brings_the_tower_back(tmp_path):
    folder, model = make_folder(tmp_path)
    loaded = mmlora.clip.load(folder, device='cpu')
    assert describe_clip(loaded.model) == describe_clip(model) and loaded.model.vision_arguments == WINDOWS
    images = clip_tiny.images(3, 16).float()
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(images), model(images), rtol=0, atol=1e-5)
    card = (folder / 'README.md').read_text()
    assert "patch_cfg {'kernel_size': 12, 'padding': 2}" in card
    assert 'peft cannot use it' in card and 'PeftModel' not in card and 'library_name: "mmlora"' in card


def test_a_folder_without_the_entry_has_a_plain_tower(tmp_path):
    folder, model = make_folder(tmp_path, vision=dict(drop_path_rate=0.1))
    path = folder / 'mmlora.json'
    record = json.loads(path.read_text())
    assert record['model'].pop('vision') == dict(drop_path_rate=0.1)
    path.write_text(json.dumps(record))
    assert mmlora.clip.load(folder, device='cpu').model.vision_arguments == {}
    assert 'PeftModel' in (folder / 'README.md').read_text()


@pytest.mark.parametrize('vision, message', [
    (dict(patch_cfg=dict(conv_type='os.system')), 'conv_type'),
    (dict(patch_cfg=dict(type='Conv2d')), 'type'),
    (dict(patch_cfg=[8]), 'patch_cfg=[8]'),
    (dict(qkv_bias=dict(type='x')), 'qkv_bias'),
    (dict(norm_cfg=None), 'norm_cfg'),
    ([3], 'must be an object, got [3]'),
])  # fmt: skip
def test_a_folder_asks_for_plain_values_alone(tmp_path, vision, message):
    folder, _ = make_folder(tmp_path)
    path = folder / 'mmlora.json'
    record = json.loads(path.read_text())
    record['model']['vision'] = vision
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=f'mmlora.json: .*{re.escape(message)}'):
        read_folder(folder)


def test_what_is_no_plain_data_has_no_folder():
    vision = dict(patch_cfg=dict(conv_type=torch.nn.Conv2d))
    model = LoRACLIPClassifier(**clip_tiny.SMALL, vision=vision)
    assert re.search("vision has patch_cfg=.*torch.nn.*a file can hold numbers", why_no_folder(model))
    assert json.dumps(describe_clip(model)['vision']) == '{"patch_cfg": {"conv_type": "<Conv2d>"}}'
    assert why_no_vision(dict(WINDOWS, drop_path_rate=0.1, init_cfg=object(), out_type='cls_token')) is None


def test_settings_are_compared():
    about = {name: describe_clip(LoRACLIPClassifier(**clip_tiny.SMALL, vision=vision))
             for name, vision in dict(plain=None, drop=dict(drop_path_rate=0.1), windows=WINDOWS).items()}
    check_structure(about['plain'], about['drop'], 'file')
    check_structure(about['windows'], {k: v for k, v in about['plain'].items() if k != 'vision'}, 'file')
    for own, given in (('plain', 'windows'), ('windows', 'plain')):
        with pytest.raises(ValueError, match=r'file does not fit the config: vision is \{.*\} there and \{.*\} in'):
            check_structure(about[own], about[given], 'file')


@pytest.mark.parametrize('vision, found', [
    (None, None),
    (dict(drop_path_rate=0.1, interpolate_mode='bilinear', qkv_bias=True), None),
    (dict(patch_cfg=dict(kernel_size=8, stride=[8, 8], padding=0)), None),
    (dict(patch_cfg=dict(padding='corner')), None),
    (dict(patch_cfg=dict(kernel_size=12, padding='corner')), "'padding': 'corner'"),
    (WINDOWS, "patches with {'kernel_size': 12, 'padding': 2}, where .* patch_size=8"),
    (dict(patch_cfg=dict(stride=4)), "'stride': 4"),
    (dict(patch_cfg=dict(bias=True)), "'bias': True"),
    (dict(layer_scale_init_value=0.1), "has {'layer_scale_init_value': 0.1}"),
])  # fmt: skip
def test_what_other_libraries_cannot_have(vision, found):
    reason = why_not_elsewhere(vision, 8)
    assert reason is None if found is None else re.search(found, reason)


@pytest.mark.parametrize('layout', ['openai', 'open_clip', 'hf'])
def test_merging_for_others_is_refused(tmp_path, layout):
    cfg = Config.fromfile(clip_folders.CONFIG)
    cfg.model.vision = dict(patch_cfg=dict(kernel_size=24, padding=4))
    cfg.dump(tmp_path / 'config.py')
    model = LoRACLIPClassifier(**{k: v for k, v in cfg.model.items() if k != 'type'})
    model.init_weights()
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'last.pth')
    out = tmp_path / 'merged.safetensors'
    with pytest.raises(ValueError, match=f"layout='{layout}' has no room for this model: .*'kernel_size': 24"):
        tiny.call_tool('merge', tmp_path / 'config.py', tmp_path / 'last.pth', out, '--layout', layout)
    assert not out.exists()


class TestImages:
    def test_images_that_the_data_set_draws(self, tmp_path):
        folder, model = make_folder(tmp_path)
        assert read_folder(folder).record['images']['steps'] == [LOAD]
        loaded = mmlora.clip.load(folder, device='cpu')
        array = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(array).save(tmp_path / 'image.png')
        inputs = torch.from_numpy(array[..., ::-1].transpose(2, 0, 1).copy())
        with torch.no_grad():
            expected = model.encode_image(model.data_preprocessor(dict(inputs=[inputs]))['inputs'])
        for image in (array, Image.fromarray(array), tmp_path / 'image.png'):
            torch.testing.assert_close(loaded.encode_images(image), expected, rtol=0, atol=1e-5)
        other = np.zeros((20, 16, 3), np.uint8)
        with pytest.raises(ValueError, match=r'image 1 is 20x16 .*the model is for 16x16; the run took .*: resize it'):
            loaded.predict([array, other])

    @pytest.mark.parametrize('size', [(8, 8), (16, 24), (32, 32)])
    def test_another_size_is_refused(self, size):
        model = clip_tiny.small_model(encoder='none').eval()
        message = rf'images are {size[0]}x{size[1]} .*the model is for 16x16: .*pipeline, or .*image_size='
        with pytest.raises(ValueError, match=message):
            model(torch.zeros(2, 3, *size, dtype=torch.float64))
        assert model(torch.zeros(2, 12, dtype=torch.float64)).shape == (2, 4)  # features have no size

    def test_the_size_that_is_asked_for_is_taken(self):
        model = clip_tiny.small_model(encoder='none', image_size=32).eval()
        assert model(torch.zeros(2, 3, 32, 32, dtype=torch.float64)).shape == (2, 4)
