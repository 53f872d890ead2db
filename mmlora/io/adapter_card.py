"""The model card of an adapter, made from its record: what is not known is left out, and nothing is to be filled in."""

import json
from collections.abc import Mapping
from typing import Any

SHOWN = 20


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
        'method': run.get('method'),
        'data set': run.get('dataset_name'),
        'labelled images of a class': run.get('shot'),
        'split': run.get('split'),
        'seed': run.get('seed'),
        'checkpoint': '{unit} {step} of {total}'.format(**run) if {'unit', 'step', 'total'} <= set(run) else None,
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
        lines += ['## Results', '', '| data | metric | value | 95 % interval | images |', '|---|---|---|---|---|',
                  *(_result(row) for row in record['metrics']), '']
    if classes:
        more = f' ... {len(classes)} in all' if len(classes) > SHOWN else ''
        lines += ['## Classes', '', f'{", ".join(map(str, classes[:SHOWN]))}{more}.', '']
    if ranks:
        lines += ['## Ranks', '', '| layer | rank | scaling |', '|---|---|---|',
                  *(f'| {name} | {row} |' for name, row in ranks.items()), '']
    lines += ['## Use', '', '```python', 'import mmlora', '', "model = mmlora.load_adapter('CONFIG', 'THIS FOLDER')",
              '```', '', f'peft loads it onto {peft} with the same base weights.' if peft else
              'peft does not load it.', '']
    if record.get('commands'):
        lines += ['## Commands', '', '```bash', *record['commands'], '```', '']
    return '\n'.join(lines)


def _result(row: Mapping[str, Any]) -> str:
    interval = f'{row["low"]:.2f} to {row["high"]:.2f}' if row.get('low') is not None else 'not known'
    value = 'not defined' if row['value'] is None else f'{row["value"]:.4g}'
    return f'| {row["data"]} | {row["name"]} | {value} | {interval} | {row.get("images") or "not known"} |'
