"""Hubs of the published code of LoRA-Recycle, taken over into the image side of CLIP."""

import shutil

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS
from tiny import call_tool

from mmlora.adapters import attach_bank, draw_lora, parameter_report, route
from mmlora.apis.hub_members import build_frozen
from mmlora.apis.hub_teachers import HubTeachers
from mmlora.apis.import_hub import import_published_hub
from mmlora.apis.pretune_hub import LOCK
from mmlora.apis.sweep_lock import lock_folder
from mmlora.io.hub import LoRAHub
from mmlora.models import LoRACLIPClassifier


def test_a_published_hub_is_taken_over(golden, tmp_path, capsys):
    """Into a CLIP whose features and logits are those of the published code."""
    folder = golden / 'lora_recycle'
    (tmp_path / 'published').mkdir()
    for number in (0, 3):
        shutil.copy(folder / 'tiny_lora_teacher_hubfile.safetensors',
                    tmp_path / 'published' / f'lora_{number}.safetensors')
        torch.save([7, 2, 5], tmp_path / 'published' / f'global_label_{number}.pth')
    assert call_tool('import_hub', tmp_path / 'published', tmp_path / 'hub', '--first', 64) == 0
    hub = LoRAHub.open(tmp_path / 'hub')
    assert list(hub) == ['00000', '00003'] and hub.records['00003']['class_ids'] == [71, 66, 69]
    assert hub.classes(0) == ['class 7', 'class 2', 'class 5'] and hub.base_sha256 is None
    torch.save({name: torch.from_numpy(value) for name, value in np.load(
        folder / 'tiny_clip_vision_weights.npz').items()}, tmp_path / 'clip.pth')
    model = MODELS.build(dict(
        type='CLIPImageEncoder', init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'clip.pth')), arch=dict(
            image_size=32, patch_size=8, vision_width=32, vision_layers=4, vision_heads=4, embed_dim=16)))
    model.init_weights()
    model.double().eval()
    wanted = np.load(folder / 'lora_forward.npz')
    x = torch.from_numpy(wanted['x'])
    # The weights were read into float32 and the factors were written so.
    np.testing.assert_allclose(model(x)[-1].detach().numpy(), wanted['base_features'], rtol=0, atol=2e-5)
    assert HubTeachers(hub, model, 'not known').image_size == (32, 32)
    attach_bank(model, hub.adapters())
    with route(model, [1, 0, 1]):
        features = model(x)[-1]
    np.testing.assert_allclose(features.detach().numpy(), wanted['lora_features'], rtol=0, atol=2e-5)
    scores = features @ hub.head(0).weight.double().T + torch.from_numpy(np.load(folder / 'tiny_lora_teacher.npz')[
        'head_bias'])
    np.testing.assert_allclose(scores.detach().numpy(), wanted['lora_logits'], rtol=0, atol=5e-5)
    with pytest.raises(ValueError, match=r'names the classes \[7, 5\], of the 3 that have names'):
        import_published_hub(tmp_path / 'published', tmp_path / 'again', [0], [1], ['a', 'b', 'c'])
    assert call_tool('import_hub', tmp_path / 'nowhere', tmp_path / 'again') == 2


def test_a_published_hub_says_which_weights_it_stands_on(golden, tmp_path, capsys):
    """Where a config names them; from then on others are refused, and LoRAs of another backbone at once."""
    source = tmp_path / 'published'
    source.mkdir()
    shutil.copy(golden / 'lora_recycle' / 'tiny_lora_teacher_hubfile.safetensors', source / 'lora_0.safetensors')
    torch.save([7, 2, 5], source / 'global_label_0.pth')
    arrays = np.load(golden / 'lora_recycle' / 'tiny_clip_vision_weights.npz')
    state = {name: torch.from_numpy(arrays[name]).float() for name in arrays}
    for name, change in (('base', 0), ('other', 1)):
        torch.save({key: value + change for key, value in state.items()}, tmp_path / f'{name}.pth')
        arch = dict(image_size=32, patch_size=8, vision_width=32, vision_layers=4, vision_heads=4, embed_dim=16)
        init = dict(type='Pretrained', checkpoint=str(tmp_path / f'{name}.pth'))
        backbone = dict(type='CLIPImageEncoder', arch=arch, init_cfg=init)
        (tmp_path / f'{name}.py').write_text(f"default_scope = 'mmpretrain'\nmodel = dict(backbone={backbone!r})\n"
                                             "data_preprocessor = dict(to_rgb=True)\n")
    hub, base, other = tmp_path / 'hub', tmp_path / 'base.py', tmp_path / 'other.py'
    for _ in range(2):
        assert call_tool('import_hub', source, hub, '--config', base) == 0
    _, digest = build_frozen(Config.fromfile(base), 'cpu')
    assert f'sha256 of the frozen weights: {digest}' in capsys.readouterr().out
    assert LoRAHub.open(hub).base_sha256 == digest
    before = (hub / '00000' / 'mmlora.json').read_bytes()
    for options, message in ((['--config', other], f'sha256 {digest}, and the backbone has '),
                             ([], 'and the backbone is not named now: give the config of then (--config)'),
                             (['--config', base, '--site', 'layers.{}.attn'], 'does not fit a CLIPImageEncoder')):
        assert call_tool('import_hub', source, hub, *options) == 2
        assert message in capsys.readouterr().err
    assert (hub / '00000' / 'mmlora.json').read_bytes() == before
    assert call_tool('invert', hub, '--config', other, '--out', tmp_path / 'pool', '--prior', 'none') == 2
    assert 'load the weights of the hub' in capsys.readouterr().err
    with lock_folder(hub, LOCK):
        assert call_tool('import_hub', source, hub, '--config', base) == 2
    assert 'is in use by process' in capsys.readouterr().err


def test_a_published_hub_is_not_taken_over_into_another(golden, tmp_path, capsys):
    for name in ('first', 'second'):
        (tmp_path / name).mkdir()
        shutil.copy(golden / 'lora_recycle' / 'tiny_lora_teacher_hubfile.safetensors',
                    tmp_path / name / 'lora_0.safetensors')
        torch.save([7, 2, 5], tmp_path / name / 'global_label_0.pth')
    for _ in range(2):
        assert call_tool('import_hub', tmp_path / 'first', tmp_path / 'hub') == 0
    before = (tmp_path / 'hub' / '00000' / 'mmlora.json').read_bytes()
    assert call_tool('import_hub', tmp_path / 'second', tmp_path / 'hub') == 2
    assert "holds the members ['00000'], which are not from" in capsys.readouterr().err
    assert (tmp_path / 'hub' / '00000' / 'mmlora.json').read_bytes() == before


def test_adapters_of_the_encoder_fit_the_classifier():
    arch = dict(image_size=16, patch_size=8, vision_width=16, vision_layers=2, vision_heads=2, embed_dim=8,
                text_width=8, text_layers=1, text_heads=1, context_length=8, vocab_size=20)
    encoder = MODELS.build(dict(type='CLIPImageEncoder', arch=arch))
    classifier = LoRACLIPClassifier(arch, encoder='none', tokenizer=dict(type='WordTokenizer', vocabulary=['a']))
    own = encoder.state_dict()
    encoder.load_state_dict({name: value for name, value in classifier.state_dict().items() if name in own})
    sites = ['visual.layers.1.attn.qkv']
    weights = draw_lora(encoder, sites, 2)
    x = torch.randn(2, 3, 16, 16)
    for model in (encoder, classifier):
        model.eval()
        attach_bank(model, [weights, weights])
    with route(encoder, [0, 1]), route(classifier, [0, 1]):
        torch.testing.assert_close(encoder(x)[-1], classifier.encode_image(x))
    assert parameter_report(encoder)
