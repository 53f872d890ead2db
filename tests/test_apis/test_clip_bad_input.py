"""What users of CLIP get wrong, through the tools: each row is a mistake, and what the message must say."""

import importlib.util
import re

import clip_folders
import pytest
import tiny
from mmengine.config import Config

from mmlora.io.clip_folder import read_folder
from mmlora.models.clip import find_arch
from mmlora.models.clip.prompts import PUBLISHED_TWICE, check_classes
from mmlora.models.clip.settings import check_structure

NO_CLASSES = {f'{part}_dataloader.dataset.{key}': value for part in ('train', 'val', 'test')
              for key, value in (('ann_file', 'list.txt'), ('data_prefix', ''))}  # fmt: skip
WORDS = "['a', 'photo', 'of', '.', 'class0', 'class1', 'class2']"


def same_names(names):
    return {f'{part}_dataloader.dataset.metainfo': dict(classes=names) for part in ('train', 'val', 'test')}


TRAINING = {
    'no vocabulary': (
        {'model.tokenizer': dict(_delete_=True, type='CLIPTokenizer')}, ImportError,
        r'comes with open_clip_torch, which is not installed: pip install "mmlora\[clip\]".*vocabulary='),
    'a vocabulary that is not there': (
        {'model.tokenizer': dict(_delete_=True, type='CLIPTokenizer', vocabulary='nowhere.txt.gz')}, FileNotFoundError,
        "the vocabulary 'nowhere.txt.gz' does not exist"),
    'a prompt that is too long': (
        {'model.templates': ' '.join(['a photo'] * 5) + ' {}'}, ValueError,
        "the prompt 'a photo a photo .*class0' has 13 tokens, .* the context 10: shorten"),
    'a name outside of the vocabulary': (
        same_names(['class0', 'class1', 'clas2']), ValueError, "'clas2' of 'a photo of a clas2.' is not among .*near"),
    'no class names': (NO_CLASSES, ValueError, r'no data set of the run names its classes.*give the model classes='),
    'an empty name': (same_names(['class0', ' ', 'class2']), ValueError, r"names that are not empty, got .*' '"),
    'a name twice': (
        same_names(['class0', 'class1', 'Class0']), ValueError,
        r"1 names of classes occur more than once: \['class0', 'Class0'\] at \[0, 2\].*a name of its own"),
    'names of the model twice': (
        {'model.classes': ['class_0', 'class1', 'class 0']}, ValueError, r"\['class_0', 'class 0'\] at \[0, 2\]"),
    'names that differ between train and val': (
        {'val_dataloader.dataset.metainfo': dict(classes=['class0', 'class1', 'photo'])}, ValueError,
        'the data sets of train_dataloader and val_dataloader name their classes differently'),
    'an unknown preset': (
        {'model.layers': 'middle'}, ValueError, "unknown layers 'middle': choose one of .*'mid'"),
    'a block that is not there': ({'model.layers': dict(vision=[7], text='all')}, ValueError, r'lie in 0..2, got 7'),
    'an unknown projection': ({'model.params': 'qx'}, ValueError, "some of 'q', 'k', 'v' and 'o', each once, got 'qx'"),
    'a projection twice': ({'model.params': 'qq'}, ValueError, "each once, got 'qq'"),
    'an unknown tower': ({'model.encoder': 'image'}, ValueError, "unknown encoder 'image': choose one of"),
    'an unknown backbone': ({'model.arch': 'ViT-B/61'}, ValueError, r"unknown arch 'ViT-B/61': did .*ViT-B/16"),
    'an unknown size': ({'model.arch.width': 3}, TypeError, r"arch has unknown fields \['width'\]; the fields are"),
    'a template without a place': ({'model.templates': 'a photo'}, ValueError, r"one {} for the name.*\['a photo'\]"),
    'a template that is no text': ({'model.templates': [3]}, TypeError, r'templates must be texts, got \[3\]'),
    'weights that are not there': (
        {'model.init_cfg.checkpoint': 'nowhere.pth'}, FileNotFoundError, 'nowhere.pth can not be found'),
}  # fmt: skip


@pytest.fixture(scope='module')
def base(tmp_path_factory):
    return clip_folders.base_of_config(tmp_path_factory.mktemp('base') / 'base.safetensors')


@pytest.fixture(scope='module')
def listed(tmp_path_factory):
    """A folder of images that are read by a list, which names no classes."""
    folder = tiny.make_images(tmp_path_factory.mktemp('listed') / 'images', per_class=2)
    rows = [f'{path.relative_to(folder)} {path.parent.name[-1]}' for path in sorted(folder.glob('*/*.png'))]
    (folder / 'list.txt').write_text('\n'.join(rows) + '\n')
    return folder


def write_config(path, images, base, options):
    cfg = Config.fromfile(clip_folders.CONFIG)
    cfg.merge_from_dict({**tiny.data_options(images), 'model.init_cfg': dict(type='Pretrained', checkpoint=str(base)),
                         'train_cfg.max_epochs': 1, **options})
    with tiny.quick_runs():
        cfg.dump(path)
    return path


@pytest.mark.parametrize('case', TRAINING)
def test_training_says_what_is_wrong(tmp_path, monkeypatch, listed, base, case):
    options, kind, message = TRAINING[case]
    if kind is ImportError:
        found = importlib.util.find_spec
        without = 'open_clip'
        monkeypatch.setattr(importlib.util, 'find_spec', lambda name, *a: None if name == without else found(name, *a))
    config = write_config(tmp_path / 'wrong.py', listed, base, options)
    with pytest.raises(kind, match=message):
        tiny.call_tool('train', config, '--work-dir', tmp_path / 'run')
    assert not (tmp_path / 'run' / 'adapter').exists()


@pytest.fixture(scope='module')
def run(tmp_path_factory, images, base):
    folder = tmp_path_factory.mktemp('clip_bad')
    config = write_config(folder / 'right.py', images, base, {})
    tiny.call_tool('train', config, '--work-dir', folder / 'run')
    return folder


TESTING = {
    'another backbone': ({'model.arch.activation': 'gelu'}, 'made for another backbone: .*quick_gelu.* there, .*gelu'),
    'names that differ between train and test': (
        {'test_dataloader.dataset.metainfo': dict(classes=['class0', 'class1', 'photo'])},
        r"with other prompts: classes are \['class0', 'class1', 'class2'\] there and .*'photo'\] in the config"),
    'names in another order': (
        {'test_dataloader.dataset.metainfo': dict(classes=['class1', 'class0', 'class2'])},
        r"other prompts: classes are .* there and \['class1', 'class0', 'class2'\]"),
    'a name twice': (
        {'test_dataloader.dataset.metainfo': dict(classes=['class0', 'class1', 'class1'])}, 'occur more than once'),
    'a prompt that is too long': ({'model.templates': 'a a a a a a a a a {}'}, 'has 12 tokens.*the context 10'),
    'another rank': ({'model.lora_rank': 2}, 'rank is 4 there and 2 in the config'),
}  # fmt: skip


@pytest.mark.parametrize('case', TESTING)
def test_testing_says_what_is_wrong(tmp_path, images, base, run, case):
    options, message = TESTING[case]
    config = write_config(tmp_path / 'wrong.py', images, base, options)
    with pytest.raises(ValueError, match=message):
        tiny.call_tool('test', config, run / 'run' / 'adapter', '--work-dir', tmp_path / 'test')


EXPORTING = {
    'another rank': ({'model.lora_rank': 2}, 'rank is 4 there and 2 in the config'),
    'no adapters': ({'model.encoder': 'none'}, 'there is no adapter to write: .* has no LoRA'),
    'other names': ({'model.classes': ['class0', 'class1', 'photo']}, 'trained with other prompts: classes are'),
    'other templates': ({'model.templates': 'a {}'}, 'trained with other prompts: templates are'),
}


@pytest.mark.parametrize('case', EXPORTING)
def test_exporting_says_what_is_wrong(tmp_path, capsys, images, base, run, case):
    options, message = EXPORTING[case]
    config = write_config(tmp_path / 'wrong.py', images, base, options)
    assert tiny.call_tool('export_adapter', config, run / 'run' / 'epoch_1.pth', '--out', tmp_path / 'out') == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert not (tmp_path / 'out').exists()


def test_adapters_of_backbones_of_one_width_are_told_apart(tmp_path, run):
    """ViT-B/16 and B/32 have factors of the same shapes: only what the folder says tells them apart."""
    there, here = (dict(arch=vars(find_arch(name)), backbone=name) for name in ('ViT-B/32', 'ViT-B/16'))
    message = r"another backbone: ViT-B/32 there, ViT-B/16 in the config \(they differ in \['patch_size'\]\)"
    with pytest.raises(ValueError, match=message):
        check_structure(here, there, 'folder')
    settings = read_folder(run / 'run' / 'adapter').settings
    check_structure(settings, settings, 'folder')


def test_names_that_imagenet_has_twice_are_let_through():
    from mmpretrain.datasets.categories import IMAGENET_SIMPLE_CATEGORIES as names

    assert check_classes(names) == tuple(names) and len(set(names)) == 1000 - len(PUBLISHED_TWICE)
    with pytest.raises(ValueError, match=r"\['tench', 'tench'\] at \[0, 1000\]"):
        check_classes([*names, 'tench'])


@pytest.mark.parametrize('arch, message', [
    (dict(image_size=32), r"arch lacks \['patch_size', 'vision_width', 'vision_layers'\]; the fields"),
    (dict(size=3), r"arch has unknown fields \['size'\] and lacks \['image_size', "),
])  # fmt: skip
def test_messages_name_only_what_is_wrong(arch, message):
    with pytest.raises(TypeError, match=message) as caught:
        find_arch(arch)
    assert '[]' not in str(caught.value)
