"""What a process pays before it trains: the import of the package and a ViT-B/16 with LoRA, beside mmpretrain alone."""

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ..core import Comparison, Spread, remembered
from ..targets import Target

ABOUT = """
Each run is a process of its own, from the start of Python to its end. *mmpretrain* imports `mmpretrain.models` and
builds its `VisionTransformer`, a ViT-B/16; *import mmlora* does the same after an import of this package; *mmlora*
builds the model with LoRA (`AdaptedBackbone`, rank 4 on q and v). Compared is the sum of all frozen weights, drawn
from one seed. Where mmpretrain does not import beside today's versions of other packages, the first three cures of
`mmlora/_compat.py` are applied before, which do nothing elsewhere. With `--clock cpu` the time is that of the child
processes. "Largest" is the resident memory of such a process. The targets are aims: 10 % over mmpretrain alone.
"""

ROOT = Path(__file__).resolve().parents[2]
ALONE, IMPORTED, OURS = 'mmpretrain alone', 'import mmlora, the same model', 'mmlora, with LoRA'
BUILD = '''
import os
import torch
{first}
import mmpretrain.models
from mmpretrain.registry import MODELS
torch.manual_seed(0)
vit = dict(type='mmpretrain.VisionTransformer', arch={arch!r}, img_size=224)
model = MODELS.build({model})
total = sum(p.detach().double().sum() for name, p in model.named_parameters() if 'lora_' not in name)
status = open('/proc/self/status').read() if os.path.exists('/proc/self/status') else ''
print('found', total.item(), *[line.split()[1] for line in status.splitlines() if line.startswith('VmHWM')])
'''
CURED = """import importlib.util
spec = importlib.util.spec_from_file_location('cures', 'mmlora/_compat.py')
cures = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cures)
for name in ('torchvision_schemas', 'package_utils', 'without_multimodal'):
    getattr(cures, name)()"""
ADAPTED = "dict(type='mmlora.AdaptedBackbone', backbone=vit, targets=['attn.qkv'], lora_ranks=4)"
WAYS = {ALONE: (CURED, 'vit'), IMPORTED: ('import mmlora', 'vit'), OURS: ('import mmlora', ADAPTED)}
"""What is imported first, and what is built."""
TINY = dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=16)


def start(program: str) -> tuple[float, float | None]:
    """Run a program in a process of its own and return the sum of the weights and the largest memory in MiB.

    Linux alone tells the memory of a program; `resource` counts that of the process that it was started by, too.

    Raises:
        RuntimeError: It fails.
    """
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', program], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f'a process that builds a model failed: {done.stderr[-500:]}')
    _, total, *kilobytes = done.stdout.splitlines()[-1].split()
    return float(total), int(kilobytes[0]) / 1024 if kilobytes else None


def suite(device: torch.device, quick: bool) -> Iterator[Comparison]:
    """Compare the three; the device does not matter."""
    memory: dict[str, float] = {}

    def run(name: str, program: str) -> float:
        total, memory[name] = start(program)
        return total

    def largest(name: str, time: Spread) -> dict[str, str]:
        return {} if memory[name] is None else {'largest, MiB': f'{memory[name]:.0f}'}

    def results(total: float) -> dict[str, Tensor]:
        return {'the sum of the weights': torch.tensor(total, dtype=torch.float64)}

    cases = []
    for name, (first, model) in WAYS.items():
        program = BUILD.format(first=first, model=model, arch=TINY if quick else 'base')
        facts = partial(largest, name)
        cases.append(remembered(name, partial(run, name, program), results, facts))
    title = f'A process that builds {"a tiny ViT" if quick else "a ViT-B/16"}'
    yield Comparison(title, cases, ALONE, ALONE, 1e-9, rounds=1 if quick else 3, warm_up=0, peaks=False,
                     long=True, targets=[Target(IMPORTED, ALONE, 1.1), Target(OURS, ALONE, 1.1)])
