"""From a hub to a pool of images: what is written, going on after a kill, and what cannot be inverted."""

import dataclasses
import json
import re
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from recycle_tiny import TinyPrior
from tiny import killed_at, one_thread  # noqa: F401

from mmlora.adapters import draw_lora
from mmlora.apis.hub_teachers import HubTeachers
from mmlora.apis.inversion import InversionSettings, LoRAInversion
from mmlora.apis.inversion_terms import to_pixels
from mmlora.apis.invert_hub import LOCK, invert_hub
from mmlora.apis.pool_sheet import contact_sheet
from mmlora.apis.sweep_lock import lock_folder
from mmlora.io.hub import write_index
from mmlora.io.lora_folder import Head, read_lora_folder, write_lora_folder
from mmlora.io.pool import Pool, PoolImage
from mmlora.models import LoRACLIPVision
from mmlora.models.batch_norm_prior import BatchNormPrior

SHORT = InversionSettings(iterations=4)
RATIOS = [0.25, 0.5, 0.75]
TASKS = {'00000': ('ab', [7, 3]), '00001': ('bc', [3, 9])}
ARCH = dict(image_size=32, patch_size=8, vision_width=24, vision_layers=2, vision_heads=2)


def backbone():
    torch.manual_seed(0)
    return LoRACLIPVision(ARCH, params=None).eval()


def write_hub(folder, **changes):
    for number, (name, (classes, ids)) in enumerate(TASKS.items()):
        generator = torch.Generator().manual_seed(number)
        weights = draw_lora(backbone(), ['layers.0.attn.qkv', 'layers.1.attn.qkv'], 2, 'qv', 1.0, generator)
        weights = {
            site: pair._replace(b=torch.randn(pair.b.shape, generator=generator)) for site, pair in weights.items()
        }
        head = Head(torch.randn(2, 24, generator=generator), torch.randn(2, generator=generator))
        record = dict(
            classes=[f'class {c}' for c in classes], class_ids=ids, task={}, metrics={}, base=dict(sha256='f' * 64),
            normalization=dict(mean=[127.5] * 3, std=[51.0] * 3, to_rgb=True),
        )  # fmt: skip
        write_lora_folder(folder / name, weights, {**record, **changes}, head)
    return write_index(folder)


@pytest.fixture(scope='module')
def teachers(tmp_path_factory):
    return HubTeachers(write_hub(tmp_path_factory.mktemp('hub')), backbone(), 'f' * 64)


@pytest.fixture(scope='module')
def prior():
    return BatchNormPrior(TinyPrior().float())


def make(teachers, out, **kwargs):
    options = dict(per_class=3, batch_size=4, settings=SHORT, mask_ratios=RATIOS)
    return invert_hub(teachers, out, **{**options, **kwargs})


@pytest.fixture(scope='module')
def pool(teachers, prior, tmp_path_factory):
    return make(teachers, tmp_path_factory.mktemp('pools') / 'pool', prior=prior)


def content(folder):
    files = [p for p in folder.rglob('*') if p.is_file() and p.name != LOCK]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def test_the_pool(pool):
    again = Pool.open(pool.folder)
    assert again == pool and len(pool.images) == 2 * 2 * 3
    assert pool.classes == ['class b', 'class a', 'class c'] and pool.class_ids == [3, 7, 9]
    assert [(i.lora, i.lora_label, i.gt_label) for i in pool.images[:2]] == [('00000', 0, 1), ('00000', 1, 0)]
    assert {(i.lora, i.lora_label): i.gt_label for i in pool.images} == {
        ('00000', 0): 1, ('00000', 1): 0, ('00001', 0): 0, ('00001', 1): 2}  # fmt: skip
    assert all((pool.folder / i.file).is_file() for i in pool.images)
    assert {p.name for p in pool.folder.iterdir()} == {'index.json', 'images', LOCK}
    assert pool.about['image_size'] == [32, 32] and pool.about['grid'] == [4, 4] and pool.about['base'] == 'f' * 64
    pool.require(3)
    with pytest.raises(ValueError, match="4 images of each class are needed, but .* has 3 of class 'class a'"):
        pool.require(4)


def test_masks_stand_beside_the_images(pool):
    for image in pool.images:
        assert set(image.masks) == {'0.25', '0.5', '0.75'}
        masks = [pool.mask(image, ratio) for ratio in RATIOS]
        assert [int(mask.sum()) for mask in masks] == [12, 8, 4]
        assert not (masks[1] & ~masks[0]).any() and not (masks[2] & ~masks[1]).any()
    assert len({image.masks['0.75'] for image in pool.images}) > 1
    with pytest.raises(ValueError, match='has no mask of ratio 0.3: this pool has 0.25, 0.5, 0.75'):
        pool.mask(pool.images[0], 0.3)


def test_images_are_rounded_and_those_of_the_inversion(pool, teachers, prior):
    first = [image for image in pool.images if image.lora == '00001'][:4]
    with teachers.classifier(teachers.members[1]) as classifier:
        found = LoRAInversion(SHORT, prior)(
            classifier, [i.lora_label for i in first], (32, 32), (0.5,) * 3, (0.2,) * 3, first[0].seed
        )
    wanted = (found.images.double() * 255).round().permute(0, 2, 3, 1).numpy()
    for image, pixels, loss in zip(first, wanted, found.losses.tolist(), strict=True):
        np.testing.assert_array_equal(pool.pixels(image), pixels)
        assert image.loss == pytest.approx(loss, abs=1e-5) and image.step == found.step


def test_a_teacher_is_the_backbone_with_its_lora_and_head(teachers):
    x = torch.randn(2, 3, 32, 32)
    plain = teachers.backbone(x)[-1]
    folder = teachers.hub['00001']
    with teachers.classifier(teachers.members[1]) as classifier:
        logits = classifier(x)
    adapted = LoRACLIPVision(ARCH, params='qv', lora_scaling='constant').eval()
    adapted.load_state_dict(teachers.backbone.state_dict(), strict=False)
    for i, layer in enumerate(adapted.layers):
        pairs = {part: folder.weights[f'layers.{i}.attn.qkv', part] for part in 'qv'}
        layer.attn.qkv.set_factors({part: (pair.a, pair.b) for part, pair in pairs.items()})
    torch.testing.assert_close(logits, adapted(x)[-1] @ folder.head.weight.T + folder.head.bias, rtol=1e-4, atol=1e-4)
    assert torch.equal(teachers.backbone(x)[-1], plain)


class KilledError(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize('at', [1, 3, 6, 11])
def test_a_killed_call_goes_on_and_writes_the_same(pool, teachers, prior, tmp_path, at):
    lines = []

    def say(text):
        lines.append(text)
        if len(lines) == at:
            raise KilledError

    with pytest.raises(KilledError):
        make(teachers, tmp_path / 'p', prior=prior, save_every=1, report_every=2, say=say)
    assert (tmp_path / 'p' / 'unfinished').is_dir()
    for place in ('unfinished', 'images'):  # A kill in the middle of a write leaves its temporary file.
        if (tmp_path / 'p' / place).is_dir():
            (tmp_path / 'p' / place / '.half.0.tmp').write_text('x')
    again = make(teachers, tmp_path / 'p', prior=prior, save_every=1)
    assert dataclasses.replace(again, folder=pool.folder) == pool
    assert content(tmp_path / 'p') == content(pool.folder)


def test_a_pool_killed_in_the_middle_of_a_write_goes_on(teachers, tmp_path, one_thread, prior):  # noqa: F811
    """By SIGKILL: in the first index, a state, an image, and later."""
    whole = make(teachers, tmp_path / 'whole', prior=prior, save_every=1)
    for write in (1, 3, 9, 20):
        out = tmp_path / str(write)
        killed_at(write, lambda out=out: make(teachers, out, prior=prior, save_every=1))
        make(teachers, out, prior=prior, save_every=1)
        assert content(out) == content(whole.folder)


def test_a_finished_pool_is_left_alone_and_another_refused(pool, teachers, prior):
    before = content(pool.folder)
    assert make(teachers, pool.folder, prior=prior) == pool
    for changed, name in ((dict(seed=1), 'seed'), (dict(mask_ratios=[0.5]), 'mask_ratios'), (dict(prior=None), 'prior'),
                          (dict(settings=InversionSettings(iterations=5)), 'settings')):  # fmt: skip
        with pytest.raises(ValueError, match=f'holds a pool with other {name}'):
            make(teachers, pool.folder, **{'prior': prior, **changed})
    assert content(pool.folder) == before


def test_pruning_in_the_last_layer_gives_the_masks_of_the_ratio(pool, teachers, prior, tmp_path):
    settings = InversionSettings(iterations=4, prune_layers=[-1], prune_ratios=[0.5], prune_start=0.0)
    own = make(teachers, tmp_path / 'p', prior=prior, settings=settings, mask_ratios=[0.5])
    assert [i.masks['0'] for i in own.images] == [i.masks['0.5'] for i in pool.images]
    assert [i.masks['0.5'] for i in own.images] == [i.masks['0.75'] for i in pool.images]
    assert all(np.array_equal(own.pixels(a), pool.pixels(b)) for a, b in zip(own.images, pool.images, strict=True))


def test_the_contact_sheet(pool, tmp_path):
    path = contact_sheet(pool, tmp_path / 'sheet.png', [0.25, 0.75], columns=2)
    sheet = np.asarray(Image.open(path))
    first = next(image for image in pool.images if image.gt_label == 0)
    pixels = np.repeat(np.repeat(pool.pixels(first), 2, 0), 2, 1)
    np.testing.assert_array_equal(sheet[20:84, 150:214], pixels)
    mask = np.kron(pool.mask(first, 0.75).reshape(4, 4).numpy(), np.ones((16, 16)))[..., None]
    np.testing.assert_array_equal(sheet[20:84, 286:350], pixels * mask)


def test_progress_says_how_long_it_takes(teachers, tmp_path):
    lines = []
    make(teachers, tmp_path / 'p', mask_ratios=[], say=lines.append, report_every=2)
    steps = [line for line in lines if 'iteration' in line]
    assert len(steps) == 2 * 2 * 2 and all(line.endswith(' left') and 'it/s' in line for line in steps)
    assert steps[0].startswith('00000 (1 of 2), batch 1: iteration 2/4, loss ') and '(ce ' in steps[0]
    assert Pool.open(tmp_path / 'p').about['grid'] is None


class Others:
    """Teachers that can be changed."""

    def __init__(self, teachers, **changes):
        self.members = [dataclasses.replace(m, **changes) if i else m for i, m in enumerate(teachers.members)]
        self.mean, self.std, self.image_size = teachers.mean, teachers.std, teachers.image_size

    @contextmanager
    def classifier(self, member):
        yield torch.nn.Linear(2, 2)


@pytest.mark.parametrize('changes, options, message', [
    (dict(base='e' * 64), {}, '00001 belong to other base weights than 00000'),
    (dict(name='00000'), {}, "several LoRAs are named '00000'"),
    (dict(class_ids=(7, 3)), {}, "class 7 is 'class b' in 00001 and 'class a' in another LoRA"),
    ({}, dict(per_class=0), 'per_class=0 and batch_size=4 must be at least 1'),
    ({}, dict(batch_size=0), 'batch_size=0'),
    ({}, dict(mask_ratios=[1.0]), r'mask_ratios must lie in \[0, 1\), got 1.0: at 1 no patch'),
    ({}, dict(mask_ratios=[0.5]), 'a mask of patches needs a model with one VisionTransformer'),
])
def test_what_cannot_be_inverted(teachers, tmp_path, changes, options, message):
    with pytest.raises(ValueError, match=message):
        make(Others(teachers, **changes), tmp_path / 'p', **options)
    assert not (tmp_path / 'p').exists()


def test_a_lora_that_was_trained_anew_needs_another_pool(prior, pool, tmp_path):
    """It has the name of the one that the images in the pool are of."""
    assert make(HubTeachers(write_hub(tmp_path), backbone(), 'f' * 64), pool.folder, prior=prior) == pool
    found = read_lora_folder(tmp_path / '00001')
    head = Head(found.head.weight, found.head.bias + 1)
    write_lora_folder(tmp_path / '00001', found.weights, found.record, head)
    with pytest.raises(ValueError, match='holds a pool with other weights'):
        make(HubTeachers(write_index(tmp_path), backbone(), 'f' * 64), pool.folder, prior=prior)


def test_a_lora_that_does_not_fit_is_named(teachers, tmp_path):
    other = HubTeachers(teachers.hub, LoRACLIPVision(dict(ARCH, vision_layers=1), params=None), 'f' * 64)
    with pytest.raises(ValueError, match="member '00001' of .* does not fit a LoRACLIPVision .*name the config"):
        with other.classifier(other.members[1]):
            pass


def test_one_process_makes_a_pool(teachers, tmp_path):
    with lock_folder(tmp_path / 'p', LOCK), pytest.raises(RuntimeError, match='is in use by process'):
        make(teachers, tmp_path / 'p')


def test_folders_and_hubs_that_do_not_fit(teachers, tmp_path):
    (tmp_path / 'a.txt').write_text('mine')
    with pytest.raises(ValueError, match='exists and is no pool'):
        make(teachers, tmp_path)
    with pytest.raises(ValueError, match='stand on weights with the sha256 f'):
        HubTeachers(teachers.hub, teachers.backbone, 'e' * 64)
    with pytest.raises(ValueError, match="has no member '00007', it has 00000, 00001"):
        HubTeachers(teachers.hub, teachers.backbone, 'f' * 64, members=['00007'])
    with pytest.raises(ValueError, match='does not say how large its images are'):
        HubTeachers(teachers.hub, torch.nn.Linear(2, 2), 'f' * 64)
    with pytest.raises(ValueError, match=r'made for images of \(32, 32\) pixels, not \(64, 64\)'):
        HubTeachers(teachers.hub, teachers.backbone, 'f' * 64, image_size=(64, 64))
    assert len(HubTeachers(teachers.hub, teachers.backbone, 'f' * 64, members=['00001']).members) == 1


@pytest.mark.parametrize('change, message', [
    (lambda c: c.update(format='other'), "its format is 'other'"),
    (lambda c: c['images'][0].update(file='../x.png'), "'../x.png' lies outside of the pool"),
    (lambda c: c['images'][0].update(file='/x.png'), 'lies outside of the pool'),
    (lambda c: c['images'][0].update(gt_label=3), 'is of class 3, but there are 3'),
    (lambda c: c['images'][0].update(more=1), 'unexpected keyword'),
    (lambda c: c.pop('classes'), 'classes'),
    (lambda c: c['class_ids'].pop(), 'it has 3 classes and 2 of their numbers'),
])
def test_damaged_indices(pool, tmp_path, change, message):
    damaged = json.loads((pool.folder / 'index.json').read_text())
    change(damaged)
    (tmp_path / 'index.json').write_text(json.dumps(damaged))
    with pytest.raises(ValueError, match=f'is no index of a pool: .*{message}'):
        Pool.open(tmp_path)


def test_damaged_images(pool, tmp_path):
    with pytest.raises(FileNotFoundError, match='is no pool of images'):
        Pool.open(tmp_path)
    image = PoolImage('images/a.png', 0, 'x', 0, 0.0, True, 0, 0, {'0.5': 'zz'})
    other = Pool(tmp_path, pool.about, pool.classes, pool.class_ids, [image])
    other.save()
    assert Pool.open(tmp_path) == other
    with pytest.raises(FileNotFoundError, match='in the index of the pool but not on the disk'):
        other.pixels(image)
    (tmp_path / 'images').mkdir()
    (tmp_path / image.file).write_bytes(b'no image')
    with pytest.raises(ValueError, match='cannot be read'):
        other.pixels(image)
    Image.new('RGB', (8, 8)).save(tmp_path / image.file)
    with pytest.raises(ValueError, match=r'\(8, 8\) pixels, but the pool \[32, 32\]'):
        other.pixels(image)
    with pytest.raises(ValueError, match="'zz' is no mask"):
        other.mask(image, 0.5)


def test_pixels_of_a_normalised_image():
    x = torch.tensor([[[[-2.5, 2.5]], [[0.0, 9.0]], [[-9.0, 1.0]]]])
    assert to_pixels(x, (0.5,) * 3, (0.2,) * 3).flatten().tolist() == pytest.approx([0, 1, 0.5, 1, 0, 0.7])


DOCS = (Path(__file__).resolve().parents[2] / 'docs' / 'inversion.md').read_text(encoding='utf-8')


def test_the_program_of_the_page_runs():
    (program,) = [text for text in re.findall(r'^```python\n(.*?)^```$', DOCS, re.M | re.S) if 'TokenPruning' in text]
    names = {}
    exec(program, names)
    assert names['keep'].sum(1).tolist() == [12, 12] and names['features'].shape == (2, 192)


def test_the_page_names_every_option_and_default():
    tool = (Path(__file__).resolve().parents[2] / 'tools' / 'invert.py').read_text()
    known = set(re.findall(r"'--([a-z-]+)'", tool)) | {name.replace('_', '-') for name in InversionSettings().to_dict()}
    named = set(re.findall(r'--([a-z0-9]+(?:-[a-z]+)*)', DOCS)) - {'work-dir', 'suite', 'clock', 'rounds', 'num-loras'}
    assert named <= known and {name.replace('_', '-') for name in InversionSettings().to_dict()} <= named
    settings = InversionSettings()
    for names, values in re.findall(r'^\| (`--.*?) \| (.*?) \|', DOCS, re.M):
        for name, value in zip(re.findall(r'--([a-z0-9-]+)', names), values.split(', '), strict=False):
            own = getattr(settings, name.replace('-', '_'), None)
            if isinstance(own, float | int) and not isinstance(own, bool):
                assert own == float(value)
