"""The model card of an adapter, made from its record: what is not known is left out, and nothing is to be filled in."""

import json
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..adapters.lora_weights import Pair, by_site

SHOWN = 20
_PIECE = re.compile(r'''(\s*)((?:[^=,:()\[\]{}'"]|:(?!/[^/]))+)''')
"""What may be a path in an argument such as ``a=['/b','/c']``, after its white space; a URL stays whole."""


def adapter_card(record: Mapping[str, Any], ranks: Mapping[str, str], kind: str, peft: str | None) -> str:
    """Return the text of ``README.md``.

    Args:
        record: The content of ``mmlora.json``.
        ranks: The row of the rank table of each adapted layer.
        kind: Kind of the adapter.
        peft: The models onto which peft loads it, or None where it does not.
    """
    base, run, classes = record['base'], record.get('protocol') or {}, record.get('classes') or []
    norm = record.get('normalization') or {}
    rows = {
        **protocol_rows(run),
        'chosen by': run.get('selected_by'),
        'config': run.get('config'),
        'backbone': record.get('backbone'),
        'kind of adapter': kind,
        'learned numbers of the backbone': record.get('parameters'),
        'base weights': base.get('name'),
        'sha256 of the base weights': base.get('sha256'),
        'images': f'mean {norm["mean"]}, std {norm["std"]}, {"RGB" if norm["to_rgb"] else "BGR"}' if norm else None,
        'mmlora': record.get('version'),
    }
    front = {'library_name': 'peft' if peft else 'mmlora', 'pipeline_tag': 'image-classification',
             'tags': [kind.lower(), 'mmlora']}
    lines = ['---', *(f'{key}: {json.dumps(value)}' for key, value in front.items()), '---', '',
             f'# {kind}{" for " + str(run["dataset_name"]) if run.get("dataset_name") else ""}', '',
             '| | |', '|---|---|', *(f'| {key} | {value} |' for key, value in rows.items() if value is not None), '']
    if record.get('metrics'):
        lines += result_section(record['metrics'])
    if classes:
        more = f' ... {len(classes)} in all' if len(classes) > SHOWN else ''
        lines += ['## Classes', '', f'{", ".join(map(str, classes[:SHOWN]))}{more}.', '']
    if ranks:
        lines += rank_section(ranks)
    lines += ['## Use', '', '```python', 'import mmlora', '',
              f"model = mmlora.load_adapter({run.get('config') or 'config of the backbone'!r}, 'path of this folder')",
              '```', '', f'peft loads it onto {peft} with the same base weights.' if peft else
              'peft does not load it.', '']
    return '\n'.join([*lines, *command_section(record.get('commands'))])


def protocol_rows(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rows of a card about the training; what is not known is None.

    Args:
        run: The protocol in the record.
    """
    return {
        'method': run.get('method'),
        'data set': run.get('dataset_name'),
        'labelled images of a class': run.get('shot'),
        'split': run.get('split'),
        'training images': describe_images(run.get('training')),
        'validation images': describe_images(run.get('validation')),
        'seed': run.get('seed'),
        'checkpoint': '{unit} {step} of {total}'.format(**run) if {'unit', 'step', 'total'} <= set(run) else None,
    }


def complete_card(card: str, record: Mapping[str, Any], ranks: Mapping[str, str]) -> str:
    """Return a card of somebody else with what it does not say: base weights, ranks, and the command of this process.

    Args:
        card: The text.
        record: The content of ``mmlora.json``.
        ranks: The row of the rank table of each adapted layer.
    """
    lines, base = [], record.get('base') or {}
    if base.get('sha256') and base['sha256'] not in card:
        name = shown_path(base.get('name') or base.get('location') or '')
        lines += ['## Base weights', '', f'{f"`{name}`, " if name else ""}sha256 `{base["sha256"]}`.', '']
    if '## Ranks' not in card:
        lines += rank_section(ranks)
    if '## Commands' not in card:
        lines += command_section(record.get('commands') or own_command())
    return '\n'.join([card.rstrip('\n'), '', *lines]).rstrip('\n') + '\n'


def own_command() -> list[str]:
    """Return the command line of this process with short paths, if it is a tool of this package."""
    program = Path(sys.argv[0])
    if program.suffix != '.py' or program.parent.name != 'tools':
        return []
    given = [_PIECE.sub(lambda piece: piece[1] + shown_path(piece[2]), word) for word in sys.argv[1:]]
    return ['python ' + shlex.join([f'tools/{program.name}', *given])]


def shown_path(text: str) -> str:
    """Return a path as others may read it: from the present folder, or its last part where it lies elsewhere.

    A folder is given away, and paths tell whose computer it is from. Texts that are no paths, URLs and paths below the
    present folder stay as they are.
    """
    given = text.removeprefix('file://')
    if not given.startswith(('~', '../')) and not os.path.isabs(given):
        return text
    path, here = Path(os.path.abspath(os.path.expanduser(given))), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else path.name or text


def shown_paths(value: Any) -> Any:
    """Return plain data with each text in it as :func:`shown_path` has it."""
    if isinstance(value, Mapping):
        return {key: shown_paths(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [shown_paths(inner) for inner in value]
    return shown_path(value) if isinstance(value, str) else value


def describe_images(data: Mapping[str, Any] | None) -> str | None:
    """Return how many images there are and where, from a description of :mod:`mmlora.engine.protocol`."""
    if not data or data.get('images') is None:
        return None
    config = data.get('config') if isinstance(data.get('config'), Mapping) else {}
    while isinstance(config.get('dataset'), Mapping):
        config = config['dataset']
    where = ', '.join(shown_path(str(x)) for x in (data.get('list'), config.get('data_root')) if x)
    digest = f' (fingerprint {data["fingerprint"]})' if data.get('fingerprint') else ''
    return f'{data["images"]}{f" of {where}" if where else ""}{digest}'


def rank_section(ranks: Mapping[str, str]) -> list[str]:
    """Return the lines of the table of ranks."""
    return ['## Ranks', '', '| layer | rank | scaling |', '|---|---|---|',
            *(f'| {name} | {row} |' for name, row in ranks.items()), '']


def rank_rows(weights: Mapping[tuple[str, str], Pair]) -> dict[str, str]:
    """Return rank and scaling of each layer of a LoRA, as the rows of the table of ranks have them."""
    return {site: f'{of_parts({part: pair.rank for part, pair in parts.items()})} | '
                  f'{of_parts({part: pair.scaling for part, pair in parts.items()})}'
            for site, parts in by_site(weights).items()}


def of_parts(values: Mapping[str, float]) -> str:
    """Return one number for each slice as text, ``'q 2, v 4'``; a layer as a whole has the slice ``''``."""
    return ', '.join(f'{part} {value:.6g}'.strip() for part, value in values.items())


def result_section(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the lines of the table of results."""
    return ['## Results', '', '| data | metric | value | 95 % interval | images |', '|---|---|---|---|---|',
            *(_result(row) for row in rows), '']


def command_section(commands: Sequence[str] | None) -> list[str]:
    """Return the lines with commands, none without any."""
    return ['## Commands', '', '```bash', *commands, '```', ''] if commands else []


def _result(row: Mapping[str, Any]) -> str:
    interval = f'{row["low"]:.2f} to {row["high"]:.2f}' if row.get('low') is not None else 'not known'
    value = 'not defined' if row['value'] is None else f'{row["value"]:.4g}'
    return f'| {row["data"]} | {row["name"]} | {value} | {interval} | {row.get("images") or "not known"} |'
