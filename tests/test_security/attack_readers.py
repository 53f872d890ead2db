"""The same pickles and tricks, read by what users call: training, testing, tools, hubs, generators."""

import functools
import json
import os
import pickle
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tiny
import torch
from attack_folders import CLIP_KEY, PLAIN, banks_folder, hub_folder, kind_folder, load_kind, peft_folder, sign
from attacks import WEIGHTS, Attack, Runs, file_of, put, saved
from mmengine.config import Config

import mmlora
import mmlora.clip
from mmlora.adapters.lora_spec import LoRASpec
from mmlora.apis import test as run_test
from mmlora.apis import train
from mmlora.apis.build_banks_published import import_published_banks, import_published_task_vectors
from mmlora.apis.clip_adapter import import_clip_lora
from mmlora.apis.convert import convert_weights
from mmlora.apis.export import export_backbone
from mmlora.apis.generate_lora import load_generator
from mmlora.apis.import_hub import import_published_hub
from mmlora.apis.merge import merge_checkpoint
from mmlora.apis.merge_adapters import merge_adapter_folders
from mmlora.apis.rank_report import ranks_from_checkpoint
from mmlora.apis.settle import settle_ranks
from mmlora.apis.truncate import truncate_checkpoint
from mmlora.io.checkpoint import load_checkpoint
from mmlora.io.hub import LoRAHub
from mmlora.io.lora_banks import LoRABanks
from mmlora.io.task_vectors import TaskVectors
from mmlora.registry import MODELS


def _state(marker: Path) -> bytes:
    """A checkpoint whose optimizer state runs."""
    state = {'state': {0: {'step': Runs(os.mkdir, str(marker))}}, 'param_groups': []}
    return saved({'state_dict': dict(WEIGHTS), 'meta': {'epoch': 1, 'iter': 1}, 'optimizer': state})


def _bare(marker: Path) -> bytes:
    return pickle.dumps(Runs(os.mkdir, str(marker)))


def _elsewhere(read: Callable[[Path, Path], Any]) -> Callable[[Path], Any]:
    """A reader that writes into a folder which is removed afterwards."""
    def call(path: Path) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            return read(path, Path(folder))

    return call


@functools.cache
def _images() -> tuple[tempfile.TemporaryDirectory, Path]:
    folder = tempfile.TemporaryDirectory()
    return folder, tiny.make_images(Path(folder.name) / 'images', per_class=2)


def _config(out: Path, **options: Any) -> Config:
    return tiny.tiny_config(_images()[1], out / 'run', **options)


def lora_config(out: Path) -> Config:
    """Return the config of a classifier with LoRA."""
    model = _config(out).model
    backbone = dict(PLAIN, type='VitSR_LoRA', lora_ranks=[[1, 1]])
    return _config(out, model=dict(model, backbone=backbone))


def _train(path: Path, out: Path, **options: Any) -> None:
    with tiny.quick_runs():
        train(_config(out, load_from=str(path)), **options)


def _test(path: Path, out: Path) -> None:
    with tiny.quick_runs():
        run_test(_config(out), str(path))


def _init(path: Path) -> None:
    MODELS.build(dict(PLAIN, init_cfg=dict(type='Pretrained', checkpoint=str(path)))).init_weights()


def _adapted(path: Path) -> None:
    backbone = dict(type='VitSR_LoRA', lora_ranks='stable_rank', img_size=32, patch_size=16, arch=PLAIN['arch'],
                    init_cfg=dict(type='Pretrained', checkpoint=str(path)))
    settle_ranks(Config(dict(model=dict(type='ImageClassifier', backbone=backbone))))


FILES = {
    'tools/train.py, load_from': _elsewhere(_train),
    'tools/train.py --resume': _elsewhere(lambda path, out: _train(path, out, resume=str(path))),
    'tools/test.py': _elsewhere(_test),
    'init_cfg': _init,
    'lora_ranks="stable_rank"': _adapted,
    'tools/convert_checkpoint.py': _elsewhere(lambda path, out: convert_weights(str(path), out / 'a.pth')),
    'tools/export_backbone.py': _elsewhere(lambda path, out: export_backbone(path, out / 'a.safetensors')),
    'tools/merge.py': _elsewhere(lambda path, out: merge_checkpoint(lora_config(out), str(path), str(out / 'a.pth'))),
    'tools/truncate_rank.py': _elsewhere(
        lambda path, out: truncate_checkpoint(lora_config(out), str(path), str(out / 'a.pth'), rank=1)),
    'tools/stable_rank.py': lambda path: ranks_from_checkpoint(str(path)),
    'tools/import_clip_lora.py': _elsewhere(lambda path, out: import_clip_lora(path, out / 'a')),
    'tools/generate_lora.py': lambda path: load_generator(generator_config(), path),
    'mmlora.clip.load, weights': lambda path: _clip(path.parent / 'clip', path),
}
"""What reads a checkpoint."""


def _clip(folder: Path, weights: Path) -> None:
    mmlora.clip.load(folder, weights=weights, arch='ViT-B/32', classes=['a'])


def _peft_pickle(key: str = 'base_model.model.a.fc.lora_{}.weight') -> Callable[[Path, Path], Path]:
    def build(folder: Path, marker: Path) -> Path:
        path = peft_folder(folder / 'a', key=key)
        (path / 'adapter_model.safetensors').unlink()
        put(path / 'adapter_model.bin', _state(marker))
        return path

    return build


def _signed(make: Callable[[Path], Path], inner: str = '') -> Callable[[Path, Path], Path]:
    """A folder whose factors are a pickle, with the hash of that in its record."""
    def build(folder: Path, marker: Path) -> Path:
        path = make(folder / 'a')
        sign(path / inner, 'adapter_model.safetensors', _bare(marker))
        return path

    return build


def _folder_of(files: dict[str, Callable[[Path], bytes]]) -> Callable[[Path, Path], Path]:
    def build(folder: Path, marker: Path) -> Path:
        for name, content in files.items():
            put(folder / 'a' / name, content(marker))
        return folder / 'a'

    return build


def _banks_pickle(folder: Path, marker: Path) -> Path:
    path = banks_folder(folder / 'a')
    put(path / '00000' / '1.safetensors', _bare(marker))
    return path


def generator_config() -> Config:
    """Return the config of a generator without its data."""
    return Config(dict(model=dict(type='PCARidge')))


def _spec(**changes: Any) -> dict:
    from attack_folders import lora
    return LoRASpec.of_weights(lora()).to_document() | changes


def _generator(document: Any) -> Callable[[Path], bytes]:
    text = document if isinstance(document, str) else json.dumps(document)
    tensor = torch.tensor(list(text.encode()), dtype=torch.uint8)
    return lambda _: saved({'state_dict': {'codec.document': tensor, 'scaler.mean': torch.zeros(3)}})


LARGE = [dict(key=f'layers.0.attn.qkv.lora_{factor}_q', shape=[10**9, 10**9], module='layers.0.attn.qkv', depth=0,
              kind='q', factor=factor) for factor in 'AB']
DOCUMENTS = {
    'nested': ('[' * 10_000, 'damaged: nested deeper than 64'),
    'a list': ([1], 'must hold'),
    'without a spec': (dict(factors='AB'), 'must hold'),
    'with a type of its own': (dict(spec=_spec(), type='os.mkdir'), 'must hold'),
    'code as factors': (dict(spec=_spec(), factors='__import__("os")'), 'cannot be built: factors must be one of'),
    'a spec of text': (dict(spec=_spec(entries='os')), 'incomplete or has unknown fields'),
    '10^18 numbers': (dict(spec=_spec(entries=LARGE), normalise='bank_element'), 'cannot be built'),
}
"""What the checkpoint of a generator says of its LoRAs."""


def _one(path: Path) -> Any:
    return LoRAHub.open(path)[0]


def _merge(path: Path, out: Path) -> None:
    merge_adapter_folders([path, path], out / 'a')


def readers() -> Iterator[Attack]:
    kind = 'pickle, by what users call'
    for name, read in FILES.items():
        yield Attack(kind, name, file_of('bad.pth', _state) if 'clip.load' not in name else _with_clip, read,
                     'refused.*mkdir|is damaged|is refused')
    pickled = {
        'mmlora.load_adapter': (_peft_pickle(), lambda path: mmlora.load_adapter(dict(PLAIN), path)),
        'mmlora.clip.load': (_peft_pickle(CLIP_KEY), lambda path: mmlora.clip.load(path, weights='none')),
        'tools/merge_adapters.py': (_peft_pickle(), _elsewhere(_merge)),
        'a hub': (_signed(hub_folder, '00000'), _one),
        'mmlora.load_adapter, another kind': (_signed(kind_folder), load_kind),
        'banks': (_banks_pickle, lambda path: LoRABanks.open(path).vectors('00000')),
        'task vectors': (file_of('t.safetensors', _bare), TaskVectors.open),
        'tools/import_hub.py': (_folder_of({'lora_0.safetensors': _bare, 'global_label_0.pth': _state}),
                                _elsewhere(lambda path, out: import_published_hub(path, out / 'a', [0] * 3, [1] * 3))),
        'tools/import_lora_bank.py': (_folder_of({'normalized_a_0.pth': _state}), _elsewhere(
            lambda path, out: import_published_banks({'a': path}, out / 'a'))),
        'tools/import_lora_bank.py, task vectors': (file_of('hidden_state.pth', _state), _elsewhere(
            lambda path, out: import_published_task_vectors({'a': path}, out / 'a.safetensors'))),
    }
    for name, (build, read) in pickled.items():
        yield Attack(kind, name, build, read, 'refused|damaged')
    for name, (document, says) in DOCUMENTS.items():
        yield Attack('generator with tricks', name, file_of('bad.pth', _generator(document)),
                     lambda path: load_generator(generator_config(), path), says)


def _with_clip(folder: Path, marker: Path) -> Path:
    peft_folder(folder / 'clip', key=CLIP_KEY)
    return put(folder / 'bad.pth', _state(marker))


# --- Python text ------------------------------------------------------------------------------------------------------

PLACES = [('meta', 'config'), ('meta', 'cfg'), ('runtime_info', 'cfg'), ('runtime_info', 'config')]


def texts() -> Iterator[Attack]:
    """Checkpoints with Python text that mmengine would run, which are read all the same."""
    for place, name in PLACES:
        def content(marker: Path, place: str = place, name: str = name) -> bytes:
            text = {name: f'made = __import__("os").mkdir({str(marker)!r})'}
            hub = dict(log_scalars={}, resumed_keys={}, runtime_info=text if place == 'runtime_info' else {})
            return saved({'state_dict': dict(WEIGHTS), 'meta': text if place == 'meta' else {}, 'message_hub': hub})

        def read(path: Path, place: str = place, name: str = name) -> Any:
            found = load_checkpoint(path)
            inside = found['meta'] if place == 'meta' else found['message_hub']['runtime_info']
            if name in inside:
                raise AssertionError(f'{name} is where mmengine runs it')

        yield Attack('Python text in a checkpoint', f'{place} {name}', file_of('bad.pth', content), read, None)
