"""Folders of adapters, hubs, banks and pools with tricks in their JSON or numbers that are none."""

import copy
import functools
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from attacks import Attack, file_of, put, saved
from safetensors.torch import load, save, save_file

import mmlora  # noqa: F401  (installs the loaders)
from mmlora.adapters import Pair
from mmlora.adapters.lora_spec import LoRASpec
from mmlora.apis.sweep import FORMAT as PLAN_FORMAT
from mmlora.apis.sweep import PLAN, read_plan
from mmlora.apis.sweep_state import FORMAT as STATE_FORMAT
from mmlora.apis.sweep_state import STATE, read_state
from mmlora.engine.adapter_folder import write_adapter
from mmlora.engine.kind_loading import adapt_as_folder
from mmlora.io.clip_folder import folder_checkpoint, read_folder, write_folder
from mmlora.io.clip_peft import Site
from mmlora.io.hub import LoRAHub, write_index
from mmlora.io.kind_folder import read_kind_folder
from mmlora.io.lora_banks import LoRABanks
from mmlora.io.lora_folder import Head, read_lora_folder, write_lora_folder
from mmlora.io.pool import FORMAT as POOL_FORMAT
from mmlora.io.pool import Pool
from mmlora.io.published_banks import read_published_task_vector
from mmlora.io.published_hub import read_published_lora
from mmlora.io.task_vectors import FORMAT as TASK_FORMAT
from mmlora.io.task_vectors import TaskVectors
from mmlora.registry import MODELS

NAN, INF = float('nan'), float('inf')
LONG = 100_000

# --- folders ---------------------------------------------------------------------------------------------------------

SITE = 'layers.0.attn.qkv'
RECORD = dict(classes=['a', 'b'], class_ids=[0, 1], task=dict(number=0), metrics={}, base=dict(sha256=None, name='x'),
              normalization=dict(mean=[0, 0, 0], std=[1, 1, 1]))
CLIP_KEY = 'base_model.model.vision_model.encoder.layers.0.self_attn.q_proj.lora_{}.weight'


def lora(value: float = 1.0) -> dict:
    """Return a LoRA of one slice."""
    return {(SITE, 'q'): Pair(torch.ones(2, 4), torch.full((4, 2), value), 1.0)}


def lora_folder(path: Path) -> Path:
    """Write a folder of a LoRA with a head."""
    return write_lora_folder(path, lora(), RECORD, Head(torch.ones(2, 4), torch.zeros(2)))


def peft_folder(path: Path, value: float = 1.0, key: str = 'base_model.model.a.fc.lora_{}.weight', **config) -> Path:
    """Write a folder as peft does."""
    path.mkdir(parents=True)
    b = torch.full((4, 2), value)
    save_file({key.format('A'): torch.ones(2, 4), key.format('B'): b}, path / 'adapter_model.safetensors')
    content = dict(dict(peft_type='LORA', r=2, lora_alpha=2), **config)
    put(path / 'adapter_config.json', json.dumps(content))
    return path


PLAIN = dict(type='mmpretrain.VisionTransformer', img_size=32, patch_size=16, arch=dict(
    embed_dims=4, num_layers=1, num_heads=1, feedforward_channels=4))


@functools.cache
def _adapted(kind: str, **options: Any) -> torch.nn.Module:
    backbone = MODELS.build(dict(type='AdaptedBackbone', kind=kind, backbone=dict(PLAIN), **options))
    with torch.no_grad():
        for name, value in _plain().state_dict().items():
            backbone.state_dict()[name].copy_(value)
    return backbone


def kind_folder(path: Path, kind: str = 'rlrr') -> Path:
    """Write the folder of an adapter that is no LoRA."""
    options = dict(targets=('qkv', 'proj'), scale_shift=('.*ln1',)) if kind == 'rlrr' else {}
    return write_adapter(path, _adapted(kind, **options), dict(classes=['a', 'b']),
                         Head(torch.ones(2, 4), torch.zeros(2)))


def read_kind(path: Path) -> Any:
    """Read a folder as :func:`mmlora.load_adapter` does."""
    found = read_kind_folder(path)
    adapt_as_folder(copy.deepcopy(_plain()), found)
    return found


@functools.cache
def _plain() -> torch.nn.Module:
    return MODELS.build(dict(PLAIN))


def sign(path: Path, file: str, content: bytes) -> Path:
    """Replace a file of a folder, with its hash in the record, and return the folder."""
    put(path / file, content)
    record = json.loads((path / 'mmlora.json').read_text())
    record['files'][file] = hashlib.sha256(content).hexdigest()
    put(path / 'mmlora.json', json.dumps(record))
    return path


def clip_folder(path: Path) -> Path:
    """Write the folder of a CLIP."""
    model = dict(arch=dict(patch_size=16), encoder='vision', params=['q'], layers=dict(vision=[0]), rank=2, alpha=2.0,
                 scaling='alpha/r', factor=1.0, templates=['a {}'], classes=['a'], logit_scale=100.0)
    record = dict(model=model, logit_scale_value=4.6, base=dict(sha256=None, location=None),
                  tokenizer=dict(type='CLIPTokenizer'), images=dict(
                      steps=[], mean=[0, 0, 0], std=[1, 1, 1], to_rgb=True))
    return write_folder(path, {Site('vision', 0, 'q'): (torch.ones(2, 4), torch.ones(4, 2))}, record, 'A card.')


def banks_folder(path: Path) -> Path:
    """Write banks with a checkpoint."""
    spec = LoRASpec.of_weights(lora())
    banks = LoRABanks.create(path, spec)
    banks.add('00000', {key: torch.ones(shape) for key, shape in ((e.key, e.shape) for e in spec.entries)}, 1, 0.5)
    return path


def pool_folder(path: Path) -> Path:
    """Write a pool with an image of 4 x 4 pixels, which is not there."""
    image = dict(file='images/a.png', gt_label=0, lora='00000', lora_label=0, loss=0.0, correct=True, seed=0, step=0)
    put(path / 'index.json', json.dumps(dict(
        format=POOL_FORMAT, about=dict(image_size=[4, 4], grid=None), classes=['a'], class_ids=[0], images=[image])))
    return path


def sweep_folder(path: Path) -> Path:
    """Write a folder of a sweep of nothing."""
    put(path / PLAN, json.dumps(dict(format=PLAN_FORMAT, tuning=None, configs=[], options={}, metrics=[])))
    put(path / STATE, json.dumps(dict(format=STATE_FORMAT)))
    return path


def hub_folder(path: Path) -> Path:
    """Write a hub with one member."""
    lora_folder(path / '00000')
    write_index(path)
    return path


def _changed(make: Callable[[Path], Path], file: str, change: Callable[[dict], Any]) -> Callable[[Path, Path], Path]:
    """A builder of a folder in which one JSON file is then changed."""
    def build(folder: Path, marker: Path) -> Path:
        path = make(folder / 'a')
        content = json.loads((path / file).read_text())
        change(content)
        put(path / file, json.dumps(content))
        return path

    return build


def read_pool(path: Path) -> Any:
    pool = Pool.open(path)
    return [pool.pixels(image) for image in pool.images]


def _read_banks(path: Path) -> Any:
    banks = LoRABanks.open(path)
    return [banks.vectors(task) for task in banks.tasks]


def _read_hub(path: Path) -> Any:
    hub = LoRAHub.open(path)
    return [hub[name] for name in hub]


FOLDERS = {
    'a LoRA': (lora_folder, ('mmlora.json',), read_lora_folder),
    'peft': (peft_folder, ('adapter_config.json',), read_lora_folder),
    'a CLIP': (lambda path: peft_folder(path, key=CLIP_KEY), ('adapter_config.json',), read_folder),
    'another kind': (kind_folder, ('mmlora.json',), read_kind),
    'a CLIP with its record': (clip_folder, ('mmlora.json', 'adapter_config.json'), folder_checkpoint),
    'a hub': (hub_folder, ('index.json', '00000/mmlora.json'), _read_hub),
    'banks': (banks_folder, ('index.json', '00000/manifest.json'), _read_banks),
    'a sweep': (sweep_folder, (PLAN, STATE), lambda path: (read_plan(path), read_state(path))),
    'a pool': (pool_folder, ('index.json',), read_pool),
}
"""How a good folder is made, its files in JSON, and what reads it."""


def _option(**options: Any) -> Callable[[dict], None]:
    return lambda content: content['adaptation']['options'].update(options)


def load_kind(path: Path) -> Any:
    """Load a folder into a model as a user does."""
    return mmlora.load_adapter(copy.deepcopy(_plain()), path)


KINDS = {
    'pattern that never ends': ('rlrr', _option(scale_shift=['(.*.*)*x']), 'cannot be used .it repeats a group'),
    'pattern that never ends as a key': ('rlrr', _option(scale_shift={'((.+)+)+X': 1}), 'cannot be used .it repeats'),
    'pattern that never ends in a list of lists': (
        'rlrr', _option(targets=[['qkv', {'a': ['((.+)+)+X']}]]), 'cannot be used .it repeats a group'),
    'many repeats': ('rlrr', _option(convs=['.*' * 30]), 'more than 4 repeats'),
    '10 million tokens': ('VPT', _option(num_tokens=10**7), 'does not fit the model'),
    '10^15 tokens': ('VPT', _option(num_tokens=10**15), 'does not fit the model'),
    'text as tokens': ('VPT', _option(num_tokens='__import__("os")'), 'num_tokens must be an integer'),
    'an option of its own': ('VPT', _option(os='mkdir'), 'unexpected keyword argument'),
    'a module as kind': ('VPT', lambda c: c['adaptation'].update(kind='os.system'), 'unknown kind of adapter'),
    'no kind': ('VPT', lambda c: c['adaptation'].pop('kind'), 'needs the name of a kind'),
    'options as a list': ('VPT', lambda c: c['adaptation'].update(options=[3]), 'needs the name of a kind'),
    'rank of 10^9': ('rlrr', lambda c: c['rank_table']['rows'][0].update(rank=10**9), 'must lie in 1..4'),
    'ranks that are none': ('rlrr', lambda c: c.update(rank_table={}), 'holds no list "rows"'),
    'classes that are none': ('rlrr', lambda c: c.update(classes=3), 'where a list of names belongs'),
    'another file': ('rlrr', lambda c: c['files'].update({'../x': ''}), 'where .* belong'),
}
"""How a folder of a kind is changed, and what the error says."""


def configs() -> Iterator[Attack]:
    rows = {
        'pattern that never ends': (dict(rank_pattern={'(a+)+$x': 2}), 'cannot be used .it repeats a group'),
        'alphas that never end': (dict(alpha_pattern={'(.|.|[a-z])*!': 2}), 'cannot be used .it repeats a group'),
        'many repeats': (dict(rank_pattern={'.*' * 30 + 'x': 2}), 'cannot be used'),
        'repeats of 10^9': (dict(rank_pattern={'(?:a{9}){999999999}': 2}), 'cannot be used'),
        'no pattern': (dict(rank_pattern={'(': 2}), 'cannot be used'),
        'pattern of 100,000 characters': (dict(rank_pattern={'a' * LONG: 2}), 'cannot be used'),
        'patterns that are text': (dict(rank_pattern='os.system'), 'where an object belongs'),
        'code as alpha': (dict(lora_alpha='__import__("os").mkdir("ran")'), 'which must be a number'),
        'alpha that is no number': (dict(lora_alpha=NAN), 'which must be a number'),
        'rank of another size': (dict(r=10**9), 'the config says 1000000000'),
        'code as initialisation': (dict(init_lora_weights='__import__("os")'), 'changes the base weights'),
        'one module to save': (dict(modules_to_save=True), 'one name belongs in a list'),
        'another method': (dict(peft_type='../../LORA'), 'needs LORA'),
    }
    kind = 'adapter folder with tricks'
    for name, (config, says) in rows.items():
        yield Attack(kind, name, lambda folder, marker, config=config: peft_folder(folder / 'a', **config),
                     read_lora_folder, says)
    for name, (of, change, says) in KINDS.items():
        yield Attack(kind, f'{name}, {of}', _changed(lambda path, of=of: kind_folder(path, of), 'mmlora.json', change),
                     load_kind, says)
    for name, files in {'above': {'../../secret': ''}, 'elsewhere': {'/etc/hostname': ''}}.items():
        yield Attack(kind, f'file {name}', _changed(lora_folder, 'mmlora.json', lambda c, f=files: c.update(files=f)),
                     read_lora_folder, 'where those of .* belong: write the folder anew')
    for name in ('../hub/00001', '00000/../00000', '', 'one', '/etc'):
        change = lambda c, name=name: c['members'].__setitem__(name, {})  # noqa: E731
        yield Attack(kind, f'member {name!r}', _changed(hub_folder, 'index.json', change), _read_hub,
                     'members are folders with a number')
    for name in ('../x', '/etc', '..', 'a/b', '', 3, None):
        change = lambda c, name=name: c.update(tasks=[name])  # noqa: E731
        yield Attack(kind, f'bank {name!r}', _changed(banks_folder, 'index.json', change), _read_banks,
                     'a task is named by letters')
        change = lambda c, name=name: c['checkpoints'][0].update(file=name)  # noqa: E731
        yield Attack(kind, f'checkpoint {name!r}', _changed(banks_folder, '00000/manifest.json', change), _read_banks,
                     'is no file beside it')
    for name in ('../x.png', '/x.png', 'images/../../x.png'):
        change = lambda c, name=name: c['images'][0].update(file=name)  # noqa: E731
        yield Attack(kind, f'image {name!r}', _changed(pool_folder, 'index.json', change), read_pool,
                     'lies outside of the pool')


def not_finite() -> Iterator[Attack]:
    head = Head(torch.ones(2, 4), torch.tensor([0.0, NAN]))

    def of_head(folder: Path, marker: Path) -> Path:
        path = lora_folder(folder / 'a')
        return sign(path, 'head.safetensors', save(head._asdict()))

    def of_kind(file: str) -> Callable[[Path, Path], Path]:
        def build(folder: Path, marker: Path) -> Path:
            path = kind_folder(folder / 'a')
            tensors = load((path / file).read_bytes())
            next(iter(tensors.values())).view(-1)[0] = NAN
            return sign(path, file, save(tensors))

        return build

    def of_banks(value: float) -> Callable[[Path, Path], Path]:
        def build(folder: Path, marker: Path) -> Path:
            path = banks_folder(folder / 'a')
            save_file({e.key: torch.full(e.shape, value) for e in LoRASpec.of_weights(lora()).entries},
                      path / '00000' / '1.safetensors')
            return path

        return build

    for name, value in (('NaN', NAN), ('Inf', INF), ('-Inf', -INF)):
        published = {f'w_{f}_00{i}': torch.full((2, 4) if f == 'a' else (4, 2), value) for f in 'ab' for i in (0, 1)}
        tasks = save({'a': torch.full((1, 2), value)}, dict(format=TASK_FORMAT, record='{}'))
        rows = {
            'peft': (lambda f, m, v=value: peft_folder(f / 'a', v), read_lora_folder),
            'CLIP': (lambda f, m, v=value: peft_folder(f / 'a', v, CLIP_KEY), read_folder),
            'banks': (of_banks(value), _read_banks),
            'published LoRA': (file_of('lora_0.safetensors', save(published)), read_published_lora),
            'task vectors': (file_of('t.safetensors', tasks), TaskVectors.open),
            'task vector': (file_of('hidden_state.pth', saved(torch.tensor([1.0, value]))), read_published_task_vector),
        }
        for where, (build, read) in rows.items():
            yield Attack('NaN or Inf in weights', f'{name} in {where}', build, read, 'not finite|a finite vector')
    yield Attack('NaN or Inf in weights', 'NaN in a head', of_head, read_lora_folder, 'not finite')
    yield Attack('NaN or Inf in weights', 'NaN in another kind', of_kind('adapter_model.safetensors'), load_kind,
                 'not finite')
    yield Attack('NaN or Inf in weights', 'NaN in the head of another kind', of_kind('head.safetensors'), load_kind,
                 'not finite')


