"""Exchange of LoRAs with peft in one table: cases, and the models on which both compute the same, each direction.

``PYTHONPATH=.:tests python tests/test_apis/exchange_table.py`` prints it for docs/reliability.md.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from exchange_models import ENDS, THEIRS
from safetensors.torch import load_file

from mmlora.io.lora_names import LIBRARIES

ALL = ('timm', 'hf', 'hf_clip', 'open_clip')
ATTENTION = {'timm': ['attn.qkv'], 'open_clip': ['attn']}


class FromPeft(NamedTuple):
    """What peft has trained.

    Attributes:
        config: ``library -> arguments of LoraConfig``.
        libraries: On whose models it is tried.
        refused: Pattern of the error with which it is not taken here, or None.
        adapter: Its name in peft.
        change: Changes the folder that peft wrote.
        dtype: Of the factors.
    """

    config: Callable[[str], dict[str, Any]]
    libraries: tuple[str, ...] = ALL
    refused: str | None = None
    adapter: str = 'default'
    change: Callable[[Path], None] | None = None
    dtype: torch.dtype = torch.float32


def layers(library: str, block: int | None = None) -> list[str]:
    """Return the ends of the names of the attention in a library, or whole names in a block."""
    names = ATTENTION.get(library, ['q_proj', 'v_proj'])
    if block is None:
        return names
    inside = {'hf': 'attention.', 'hf_clip': 'self_attn.'}.get(library, '')
    return [THEIRS[library][1].format(block) + inside + name for name in names]


def plain(library: str, **more: Any) -> dict[str, Any]:
    """Return arguments for the attention of the vision tower."""
    text = dict(exclude_modules='text_model.*') if library == 'hf_clip' else {}
    return dict(target_modules=layers(library), **text) | more


def _patterns(library: str) -> dict[str, Any]:
    first, last = (re.escape(THEIRS[library][1].format(block)) for block in (1, 11))
    return plain(library, use_rslora=True, rank_pattern={f'^{first}.*': 5, layers(library)[-1]: 2},
                 alpha_pattern={first.removesuffix(r'\.'): 99, f'{last}.*': 9})  # The first is no end of a name.


def _one_and_eleven(library: str) -> dict[str, Any]:
    names = [name for block in (1, 10, 11) for name in layers(library, block)]
    own = {re.escape(name[name.index('1.'):]): 5 for name in layers(library, 1)}  # An end: '1.attn' is not '11.attn'.
    return dict(target_modules=[*names, THEIRS[library][1].format(1) + LIBRARIES[library].naming.ends['fc2']],
                rank_pattern=own, alpha_pattern=dict.fromkeys(own, 7))


def _all_linear(library: str) -> dict[str, Any]:
    return dict(target_modules='all-linear', exclude_modules='.*(head|text_model|projection).*')


def _as_pickle(folder: Path) -> None:
    torch.save(load_file(folder / 'adapter_model.safetensors'), folder / 'adapter_model.bin')
    (folder / 'adapter_model.safetensors').unlink()


def _with(**more: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / 'adapter_config.json'
        path.write_text(json.dumps(json.loads(path.read_text()) | more))

    return change


TIMM = ('timm',)
FROM_PEFT = {
    'attention, named by its ends': FromPeft(plain),
    'attention, by a regular expression': FromPeft(
        lambda lib: plain(lib, target_modules=f'(?!text).*({"|".join(layers(lib))})', exclude_modules=None)),
    '`all-linear`': FromPeft(_all_linear, ALL[:3]),
    '`all-linear` with the head': FromPeft(
        lambda lib: dict(target_modules='all-linear'), TIMM, r"layers \['head'\] have no known .*exclude_modules"),
    '`all-linear`, `out_proj` of `nn.MultiheadAttention`': FromPeft(
        _all_linear, ('open_clip',), 'does not compute with a LoRA on the out_proj .*adapt the attention as a whole'),
    'both towers, into a vision backbone': FromPeft(
        lambda _: dict(target_modules=['q_proj']), ('hf_clip',), r"'text_model.*of 'hf_clip' only these .*clip\.load"),
    'block 1 and 11, ranks and alphas of their own': FromPeft(_one_and_eleven),
    'rsLoRA, `rank_pattern`, `alpha_pattern`': FromPeft(_patterns),
    '`layers_to_transform`': FromPeft(lambda lib: plain(
        lib, layers_to_transform=[1, 11], layers_pattern=THEIRS[lib][1].split('.')[-3])),
    '`exclude_modules`': FromPeft(lambda lib: plain(lib, exclude_modules=r'text_model.*|.*\.1\..*')),
    'an adapter of another name': FromPeft(plain, TIMM, adapter='cats'),
    'factors in bfloat16': FromPeft(plain, dtype=torch.bfloat16),
    '`adapter_model.bin` of old versions': FromPeft(plain, change=_as_pickle),
    'DoRA': FromPeft(lambda lib: plain(lib, use_dora=True), TIMM, 'use_dora=True .*merge it'),
    "`bias='all'`": FromPeft(lambda lib: plain(lib, bias='all'), TIMM, "bias='all'.*merge it"),
    '`lora_bias`': FromPeft(lambda lib: plain(lib, lora_bias=True), TIMM, 'lora_bias=True .*merge it'),
    'PiSSA that was not converted': FromPeft(
        lambda lib: plain(lib, init_lora_weights='pissa'), TIMM, "'pissa', which changes the base .*save_pretrained"),
    'convolutions': FromPeft(
        lambda lib: dict(target_modules=['patch_embed.proj']), TIMM, r'patch_embed.* no factor .*exclude_modules'),
    '`target_parameters`': FromPeft(
        lambda lib: dict(target_modules=[], target_parameters=['attn.qkv.weight']), TIMM, 'target_parameters.*merge'),
    '`modules_to_save` that is no linear head': FromPeft(
        lambda lib: plain(lib, modules_to_save=['norm']), TIMM, 'a head is one linear layer'),
    'a field of a later version': FromPeft(
        plain, TIMM, 'use_tomorrow=True, which is not known here: merge it', change=_with(use_tomorrow=True)),
}
"""From peft to here."""


class ToPeft(NamedTuple):
    """What was trained here.

    Attributes:
        lora: Arguments of :func:`exchange_models.draw`.
        libraries: Onto whose models peft loads it.
    """

    lora: dict[str, Any]
    libraries: tuple[str, ...] = ALL


def _rank(block: int, number: int) -> int:
    return 1 + (5 * block + number) % 7


ATTENTION_ALONE = ENDS[:1]
TO_PEFT = {
    'q and v of a fused projection': ToPeft(
        dict(rank=lambda i, j: 4, rule=lambda r: 8 / r, ends=ATTENTION_ALONE, blocks=(1, 11))),
    'k alone, rsLoRA': ToPeft(
        dict(rank=lambda i, j: 3, rule=lambda r: 8 / r**0.5, slices='k', ends=ATTENTION_ALONE, blocks=(1, 11)),
        ('timm', 'open_clip')),
    'ranks and scalings of each layer and slice': ToPeft(
        dict(rank=_rank, rule=lambda r: 3 / r**0.5, slices='kv', ends=(ENDS[0], *ENDS[2:]), blocks=(1, 11))),
    'the output of attention too': ToPeft(
        dict(rank=_rank, rule=lambda r: 3 / r, slices='qkv', blocks=(1, 11)),
        ('timm', 'hf', 'hf_clip', 'hf_clip_vision')),
}
"""From here to peft, and back here."""

ELSEWHERE = {
    'the head, by `modules_to_save`': ('timm, hf', 'timm, hf'),
    'both towers of CLIP (`mmlora.clip`)': ('hf_clip', 'hf_clip'),
}
"""Cases with tests of their own, in test_adapters and test_clip_adapter: where, from peft and to peft."""


def table() -> str:
    """Return the cases in Markdown."""
    rows = [(name, ', '.join(case.libraries) if case.refused is None else 'an error', '')
            for name, case in FROM_PEFT.items()]
    rows += [(name, ', '.join(case.libraries), ', '.join(case.libraries)) for name, case in TO_PEFT.items()]
    rows += [(name, *both) for name, both in ELSEWHERE.items()]
    return '\n'.join(['| case | from peft | to peft |', '|---|---|---|', *(f'| {" | ".join(row)} |' for row in rows)])


if __name__ == '__main__':
    print(table())
