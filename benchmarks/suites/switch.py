"""A hundred LoRAs of folders given to one model, and each switched to, against peft."""

import copy
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from importlib import import_module
from pathlib import Path

import torch
import torch.nn as nn
from torch import Tensor

import mmlora
from mmlora.adapters import LoRAWeights
from mmlora.engine.base_weights import base_sha256
from mmlora.io.lora_folder import write_lora_folder

from ..core import Case, Comparison, Growth, absent
from ..targets import Target
from .mixed import drawn, tower

ABOUT = """
A server's case: LoRAs are loaded from folders in peft's layout into one frozen ViT-B/16 (rank 8 on the fused qkv and
the output projection of each block), and each of them is switched to. Here `mmlora.load_adapter` and `set_adapter`,
there `PeftModel.from_pretrained`, `load_adapter` and `set_adapter`; with `low_cpu_mem_usage` peft leaves out drawing
weights that are read over. Both read the same files; here their hashes and that of the frozen weights are checked
besides. The features of one image with some of the adapters are compared. Each run starts from a plain model. The
target, five times as fast, is an aim.
"""

OURS, PEFT = 'mmlora', 'peft'
PEERS = absent(peft='peft')
COUNT = 100


@cache
def folders(count: int, quick: bool) -> tuple[nn.Module, list[str], tempfile.TemporaryDirectory]:
    """Return a plain model, and folders with LoRAs of it, which last as long as the third."""
    model = tower(quick, torch.device('cpu'), layers=12)
    kept, digest = tempfile.TemporaryDirectory(), base_sha256(model)
    paths = [write(Path(kept.name) / f'adapter{number:03}', lora, digest)
             for number, lora in enumerate(drawn(model, count))]
    return model, paths, kept


def write(path: Path, lora: LoRAWeights, digest: str) -> str:
    """Write a LoRA as a folder that peft reads too, and return its path."""
    write_lora_folder(path, lora, dict(base=dict(name=None, sha256=digest)), None, '')
    return str(path)


def plain(model: nn.Module, device: torch.device) -> nn.Module:
    """Return a copy of a model with the same tensors, whose hash is not known yet."""
    found = copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})
    found.eval()
    vars(found).pop('known_base', None)
    return found.to(device)


def by_mmlora(model: nn.Module, paths: Sequence[str]) -> tuple[nn.Module, Callable[[str], object]]:
    """Return a model with all adapters, named by their folders, and what switches."""
    for path in paths:
        mmlora.load_adapter(model, path, Path(path).name)
    return model, lambda name: mmlora.set_adapter(model, name)


def by_peft(model: nn.Module, paths: Sequence[str]) -> tuple[nn.Module, Callable[[str], object]]:
    """Return peft's model with all adapters, and what switches."""
    from peft import PeftModel

    adapted = PeftModel.from_pretrained(model, paths[0], Path(paths[0]).name, low_cpu_mem_usage=True)
    for path in paths[1:]:
        adapted.load_adapter(path, Path(path).name, low_cpu_mem_usage=True)
    adapted.eval()
    return adapted, adapted.set_adapter


WAYS: dict[str, Callable[[nn.Module, Sequence[str]], tuple[nn.Module, Callable[[str], object]]]] = {
    OURS: by_mmlora,
    PEFT: by_peft,
}


def outputs(model: nn.Module, switch: Callable[[str], object], names: Sequence[str], size: int) -> dict[str, Tensor]:
    """Return the features of one image with the first, a middle and the last adapter."""
    device = next(model.parameters()).device
    image, found = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(3)).to(device), {}
    for name in (names[0], names[len(names) // 2], names[-1]):
        switch(name)
        with torch.no_grad():
            found[f'the features with {name}'] = model(image)[-1]
    return found


def side_by_side(device: torch.device, quick: bool) -> Iterator[Comparison]:
    """Return loading with switching, and switching alone among adapters that are there."""
    count = 3 if quick else COUNT
    model, paths, _ = folders(count, quick)
    names, size = [Path(path).name for path in paths], model.img_size[0]
    ways = {name: way for name, way in WAYS.items() if name not in PEERS}
    if PEFT in ways:
        import_module('peft')  # Before what is timed.

    loaded: dict[str, tuple[nn.Module, Callable[[str], object]]] = {}

    def load(name: str) -> None:
        loaded[name] = ways[name](plain(model, device), paths)
        switch(name)

    def switch(name: str) -> None:
        for one in names:
            loaded[name][1](one)

    def results(name: str) -> dict[str, Tensor]:
        if name not in loaded:
            load(name)
        return outputs(*loaded[name], names, size)

    def cases(run: Callable[[str], None]) -> list[Case]:
        return [Case(name, partial(run, name), partial(results, name)) for name in ways]

    goals, given = [Target(OURS, PEFT, 1 / 5)], dict(absent=PEERS, peaks=False)
    title = f'{count} LoRAs of a ViT of {len(model.layers)} layers loaded, and each switched to'
    yield Comparison(title, cases(load), OURS, OURS, 1e-5, rounds=3, warm_up=0, targets=goals, long=True,
                     **given)
    yield Comparison(f'{count} switches among {count} LoRAs that are loaded', cases(switch), OURS, OURS, 1e-5, rounds=2,
                     warm_up=1, targets=goals, **given)


def growing(device: torch.device, quick: bool) -> Growth:
    """Return how long ours takes to load more and more adapters."""
    sizes = (1, 2) if quick else (6, 25, 100)
    model, paths, _ = folders(3 if quick else COUNT, quick)
    cases = {n: Case(f'adapters {n}', lambda n=n: by_mmlora(plain(model, device), paths[:n])) for n in sizes}
    return Growth('LoRAs loaded by mmlora', 'adapters', cases, 2)


def suite(device: torch.device, quick: bool) -> Iterator[Comparison | Growth]:
    """Compare loading and switching, and let the number of adapters grow."""
    yield from side_by_side(device, quick)
    yield growing(device, quick)
    folders.cache_clear()
