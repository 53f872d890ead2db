"""docs/clip.md and the bases of CLIP-LoRA: configs load and name what exists, programs run, numbers follow."""

import re
import shutil

import clip_folders
import clip_tiny
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmpretrain.registry import DATASETS, HOOKS, MODELS, TRANSFORMS
from PIL import Image

from mmlora.adapters.input_dropout import InputDropout
from mmlora.apis import settle_variables
from mmlora.engine.clip_images import published_steps
from mmlora.engine.clip_record import write_run
from mmlora.models import LoRACLIPClassifier, LoRACLIPVision
from mmlora.models.backbones.skeleton import Skeleton
from mmlora.models.clip.arch import CLIPArch
from mmlora.models.clip.blocks import PRESETS
from mmlora.models.clip.preprocessor import STATISTICS


@pytest.fixture(scope='module')
def text(root):
    return (root / 'docs' / 'clip.md').read_text(encoding='utf-8')


@pytest.fixture
def blocks(text):
    return re.findall(r'^```python\n(.*?)^```$', text, re.MULTILINE | re.DOTALL)


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmpretrain')


def without_vocabulary(model):
    model.tokenizer = dict(type='WordTokenizer', vocabulary=['a'])
    return model


def test_the_config_is_whole(root, blocks, tmp_path):
    (block,) = (b for b in blocks if b.startswith('# configs/'))
    shutil.copytree(root / 'configs' / '_base_', tmp_path / '_base_')
    (tmp_path / 'flowers_clip.py').write_text(block)
    cfg = Config.fromfile(tmp_path / 'flowers_clip.py')
    assert cfg.model.init_cfg.checkpoint and cfg.model.lora_dropout == 0.25
    model_cfg = without_vocabulary(dict(cfg.model) and cfg.model)
    model_cfg.pop('init_cfg')
    with Skeleton():
        model = MODELS.build(dict(model_cfg, data_preprocessor=cfg.data_preprocessor))
    assert type(model) is LoRACLIPClassifier
    own = dict(STATISTICS)
    assert {k: cfg.data_preprocessor[k] for k in ('mean', 'std')} == {k: own[k] for k in ('mean', 'std')}
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    learned = sum(p.numel() for group in optimizer.param_groups for p in group['params'] if p.requires_grad)
    assert learned == 184_320 and {group['weight_decay'] for group in optimizer.param_groups} == {0.01}
    assert settle_variables(cfg) == dict(shot=4, seed=1, base_to_new=False, tune=False)
    (schedule,) = cfg.param_scheduler
    assert (schedule.T_max, schedule.end, cfg.train_cfg.max_iters) == (2000, 2000, 2000)
    assert not (cfg.train_cfg.by_epoch or cfg.log_processor.by_epoch or cfg.default_hooks.checkpoint.by_epoch)
    assert [HOOKS.get(hook.type).__name__ for hook in cfg.custom_hooks] == [
        'StepSeedHook', 'ClassNamesHook', 'AdapterFolderHook']
    for name in ('train', 'test'):
        dataset = cfg[f'{name}_dataloader'].dataset
        assert DATASETS.get(dataset.type) and dataset.data_root == 'data/flowers'
        assert all(TRANSFORMS.get(step.type) for step in dataset.pipeline)
    assert cfg.test_dataloader.dataset.pipeline[1].scale == 224


@pytest.mark.parametrize('name, learned', [('base-p16', 184_320), ('base-p32', 184_320), ('large-p14', 405_504)])
def test_the_model_bases(root, name, learned):
    cfg = Config.fromfile(root / 'configs' / '_base_' / 'models' / f'clip-lora_vit-{name}.py')
    assert cfg.method == 'CLIP-LoRA'
    with Skeleton():
        model = MODELS.build(without_vocabulary(cfg.model))
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == learned


def test_the_part_and_the_program(blocks):
    (part,) = (b for b in blocks if b.startswith('# part') and 'LoRA-CLIP' in b)
    with Skeleton():
        model = MODELS.build(Config.fromstring(part, '.py').model)
    assert type(model.backbone) is LoRACLIPVision
    (program,) = (b for b in blocks if b.startswith('import torch\nfrom torch'))
    scope = {}
    exec(compile(program, 'docs/clip.md', 'exec'), scope)
    assert len(scope['layers']) == 2 and all(layer.merged for layer in scope['layers'].values())


def test_the_model_in_python(blocks):
    (program,) = (b for b in blocks if b.startswith('import torch\n\nfrom mmlora.models'))
    scope = {}
    exec(compile(program, 'docs/clip.md', 'exec'), scope)
    assert scope['scores'].shape == (4, 2) and scope['model'].classes == ('red_fox', 'blue_fox')


def test_the_folder_of_a_run(blocks, tmp_path, monkeypatch, capsys):
    (program,) = (b for b in blocks if b.startswith('import mmlora.clip'))
    assert len([line for line in program.splitlines() if line]) < 6
    plain = clip_folders.plain_model()
    base = clip_folders.write_base(tmp_path / 'clip.safetensors', plain)
    model = clip_tiny.fill(LoRACLIPClassifier(**clip_tiny.SMALL))
    init_cfg = dict(type='Pretrained', checkpoint=str(base))
    cfg = Config(dict(
        model=dict(tokenizer=clip_tiny.SMALL['tokenizer'], init_cfg=init_cfg),
        test_dataloader=dict(dataset=dict(pipeline=published_steps(16)))))  # fmt: skip
    model.load_state_dict(plain.state_dict(), strict=False)
    write_run(tmp_path / re.search("load\\('(.*?)'\\)", program)[1], cfg, model, {})
    for name in ('a.jpg', 'b.jpg'):
        Image.new('RGB', (20, 30), 'green').save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    scope = {}
    exec(compile(program, 'docs/clip.md', 'exec'), scope)
    assert [each.name in clip_tiny.CLASSES for each in scope['found']] == [True, True]
    assert 'torch.Size([1, 12])' in capsys.readouterr().out


def test_the_tables_name_what_there_is(text):
    names = set(re.findall(r'`(\w[\w-]*)`', text))
    assert set(PRESETS) <= names
    assert set(CLIPArch.__dataclass_fields__) <= names
    rows = re.findall(r'^\| (`.*?) \|', text, re.MULTILINE)
    arguments = {name for row in rows for name in re.findall(r'`(\w+)', row)} - {'ViT'}
    known = set(LoRACLIPClassifier.__init__.__code__.co_varnames)
    assert arguments <= known and {'arch', 'encoder', 'params', 'layers', 'text_chunk'} <= arguments


def test_the_memory_table_is_calculated_right(text):
    number = r' \| ([\d.]+) '
    pattern = rf'^\| (ViT-./\d\d){number}MiB{number}GiB{number}MiB{number}GiB{number}GiB \|$'
    rows = re.findall(pattern, text, re.MULTILINE)
    assert len(rows) == 2
    for _, token, whole, image, batch, together in rows:
        assert float(token) * 18 * 1000 / 1024 == pytest.approx(float(whole), rel=0.02)
        assert float(image) * 32 / 1024 == pytest.approx(float(batch), rel=0.01)
        assert float(whole) + float(batch) == pytest.approx(float(together), abs=0.06)


@pytest.mark.parametrize('plain, expected', [(True, 0.46), (False, 0.35)])
def test_what_a_token_keeps_follows_from_the_width(plain, expected):
    """The bytes of the table, from towers of the same width with one and two blocks: ten more are like the second."""
    def saved(count, depth):
        arch = CLIPArch(32, 16, 64, 1, 1, 512, 512, depth, 8, 77, 100)
        torch.manual_seed(0)
        model = LoRACLIPClassifier(arch, tokenizer=dict(type='WordTokenizer', vocabulary=['a'])).train()
        for module in model.modules():
            if plain and isinstance(module, InputDropout):  # The operations of a GPU run where a hook looks on, too.
                module.register_forward_hook(lambda *given: None)
        weights, sizes = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}

        def pack(tensor):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                sizes[storage.data_ptr()] = (storage.nbytes(), tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            features = model.text(torch.arange(16).repeat(count, 1))
        assert features.shape == (count, 512)
        return sum(size for size, _ in sizes.values())

    one, two = ((saved(16, depth) - saved(8, depth)) / 8 / 16 for depth in (1, 2))
    assert (one + 11 * (two - one)) / 2**20 == pytest.approx(expected, rel=0.02)
