"""Sections about one run: what it was, its results, its curves, its ranks."""

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from ...engine.adapter_folder import result_row
from ...ranks import RankTable
from ..records import RESULTS
from .charts import bar_chart, line_chart, say_number
from .files import LARGEST, Curves, Folder, dig, naming
from .page import Missing, Section, facts, table

SETTINGS = {
    'method': 'Method', 'dataset_name': 'Data', 'shot': 'Images of a class', 'split': 'Split',
    'model.backbone.type': 'Backbone', 'model.backbone.arch': 'Architecture', 'model.type': 'Model',
    'randomness.seed': 'Seed', 'train_cfg.max_epochs': 'Epochs', 'train_cfg.max_iters': 'Iterations',
    'train_dataloader.batch_size': 'Batch size', 'optim_wrapper.optimizer.type': 'Optimizer',
    'optim_wrapper.optimizer.lr': 'Learning rate', 'optim_wrapper.optimizer.weight_decay': 'Weight decay',
    'load_from': 'Weights loaded from',
}  # yapf: disable
"""Settings of the dumped config that the page shows, and what they are called."""
_RATES = ('accuracy', 'auc', 'map', 'precision', 'recall', 'f1', 'kappa')
_PARTS = {'attn', 'ffn', 'mlp', 'attention', 'self_attn', 'cross_attn'}
_KINDS = {'ffn.layers.0.0': 'fc1', 'ffn.layers.1': 'fc2', 'mlp.c_fc': 'fc1', 'mlp.c_proj': 'fc2'}


def about_run(folder: Folder) -> Section | Missing:
    """Return what the run was, and the commands that repeat it."""
    settings, meta = folder.settings, folder.meta
    if not settings and not meta:
        return Missing('Settings', 'there is neither a dumped config nor a checkpoint in this folder')
    own = folder.own_meta
    pairs = [(label, _short(value)) for path, label in SETTINGS.items() if (value := dig(settings, path)) is not None]
    versions = [f'{name} {value}' for name, value in (
        ('mmlora', own.get('version')), ('mmengine', _version(meta.get('mmengine_version')))) if value]
    protocol = own.get('protocol') or {}
    more = [
        ('Seed of the run', None if dig(settings, 'randomness.seed') is not None else protocol.get('seed')),
        ('Written with', ', '.join(versions)), ('Checkpoint', folder.checkpoint and folder.checkpoint.name),
        ('Finished steps', meta.get('iter')), ('Saved at', meta.get('time')),
        ('Hash of the frozen weights', _base_hash(own)),
    ]
    pairs += [(name, _short(value)) for name, value in more if value]
    body = facts(pairs)
    if folder.config:
        body += Markup('<h3>Repeat it</h3><pre>{}</pre>').format('\n'.join(_commands(folder)))
    return Section('run', 'Run', body)


def _version(text: Any) -> str:
    return re.sub(r'([0-9a-f]{40}|unknown)$', '', str(text or ''))  # mmengine appends the hash of its own commit.


def _base_hash(own: Mapping[str, Any]) -> str | None:
    for place in (own.get('base'), own.get('rank_table'), own.get('clip')):
        if isinstance(place, Mapping):
            found = place.get('sha256') or place.get('base_sha256')
            if found:
                return str(found)
    return None


def _commands(folder: Folder) -> list[str]:
    config = shlex.quote(str(folder.config))
    again = shlex.quote(f'{str(folder.path).rstrip("/")}-again')
    lines = [f'python tools/train.py {config} --work-dir {again}']
    if folder.checkpoint:
        lines.append(f'python tools/test.py {config} {shlex.quote(str(folder.checkpoint))}')
    return lines


def results(folder: Folder) -> Section | Missing:
    """Return the results of tests, the newest as large numbers."""
    if not folder.records:
        return Missing('Results', 'nothing was tested yet: python tools/test.py CONFIG CHECKPOINT')
    with naming(folder.path / RESULTS):
        return Section('results', 'Results', _results(folder))


def _results(folder: Folder) -> Markup:
    newest = max(folder.records, key=lambda entry: str(entry.get('date')))
    cards = Markup('').join(Markup('<li><b>{}</b><span>{}{}</span></li>').format(
        value, name, _interval(newest, name)) for name, value in list(_metrics(newest['metrics']))[:6])
    rows = [[entry['dataset_name'], f'{entry["test"]["images"]}', entry['checkpoint'].get('name'),
             entry['protocol']['selection'], ', '.join(f'{name} {value}' for name, value in _metrics(entry['metrics'])),
             _rate(entry['test'].get('majority_rate')), entry.get('date') or '']
            for entry in folder.records]
    head = ['Test data', 'Images', 'Checkpoint', 'Chosen as', 'Metrics', 'Always the largest class', 'Date']
    note = ''
    if any(entry['protocol'].get('on_test') for entry in folder.records):
        note = Markup('<p class="bad">A checkpoint was chosen on the test data itself: its numbers are too good.</p>')
    return Markup('<ul class="big">{}</ul>{}{}').format(cards, note, table(head, rows, (1, 5)))


def _interval(entry: Mapping[str, Any], name: str) -> str:
    """Return the 95 % interval of a share of the tested images, or nothing."""
    value, images = entry['metrics'][name], entry['test']['images']
    if not 0 <= value <= 100 or images < 1:
        return ''
    row = result_row('', name, value, images)
    return f', 95 % interval {row["low"]:.2f} to {row["high"]:.2f}' if 'low' in row else ''


def _metrics(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return names and values; half widths of intervals stand behind their means."""
    shown = []
    for name, value in metrics.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or name.endswith('/interval'):
            continue
        interval = metrics.get(f'{name.rpartition("/")[0]}/interval')
        width = f' ± {interval:.2f}' if isinstance(interval, int | float) and name.endswith('/accuracy') else ''
        shown.append((name, f'{value:.2f}{width}' if isinstance(value, float) else f'{value}'))
    return shown


def _rate(value: float | None) -> str:
    return '' if value is None else f'{value:.1f} %'


def curves(folder: Folder) -> Section | Missing:
    """Return the curves of loss, learning rate, validation metrics and what else was logged."""
    found = folder.curves
    if found is not None and not (found.train or found.val):
        return Missing('Curves', f'vis_data/scalars.json holds no number that is finite and at most {LARGEST:g}')
    if found is None:
        return Missing('Curves', 'no vis_data/scalars.json in this folder: nothing was trained here, or the config has '
                       "no LocalVisBackend in visualizer.vis_backends (beside TensorBoard's, list both)")
    charts = Markup('').join(_charts(found))
    return Section('curves', 'Curves', Markup('<div class="charts">{}</div>').format(charts))


def _charts(found: Curves) -> list[Markup]:
    charts = []
    losses = {name: points for name, points in found.train.items() if 'loss' in name}
    rates = {name: points for name, points in found.train.items() if name == 'lr' or name.endswith('/lr')}
    if losses:
        charts.append(line_chart('Training loss', losses, 'iteration', 'loss'))
    scores = {name: points for name, points in found.val.items() if any(word in name.lower() for word in _RATES)}
    if scores:
        charts.append(line_chart('Validation', scores, 'iteration', 'percent'))
    if rates:
        charts.append(line_chart('Learning rate', rates, 'iteration', 'learning rate'))
    others: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for source, taken in ((found.train, {*losses, *rates}), (found.val, {*scores})):
        for name in sorted(source.keys() - taken):
            others.setdefault(name.partition('/')[0], {})[name] = source[name]
    for name, series in sorted(others.items()):
        label = name.replace('_', ' ')
        charts.append(line_chart(label.capitalize(), series, 'iteration', label))
    return charts


def ranks(folder: Folder) -> Section | Missing:
    """Return the chart of ranks."""
    path = folder.path / 'ranks.json'
    stored = None if path.is_file() else folder.own_meta.get('rank_table')
    if path.is_file():
        with naming(path):
            found = RankTable.load(path)
    elif stored:
        found = RankTable.from_dict(stored, f'{folder.checkpoint}: its rank table')
    else:
        return Missing('Ranks', 'neither ranks.json nor a checkpoint with a table of ranks: the run adapts no layers '
                       'by ranks, or did not begin')
    groups: dict[str, dict[str, float]] = {}
    hints = {}
    for row in found.rows:
        block, kind = place_of(row.module, row.slice)
        groups.setdefault(block, {})[kind] = row.rank
        value = '' if row.value is None else f', {row.criterion} {row.value:.3f}'
        hints[f'{block} {kind}'] = f'{row.label}: rank {row.rank}{value}'
    chart = bar_chart('Rank of each adapted layer', groups, 'block', 'rank', hints)
    total = sum(row.params or 0 for row in found.rows)
    criteria = ', '.join(sorted({row.criterion for row in found.rows}))
    budget = ', '.join(f'{name}={value}' for name, value in (found.budget or {}).items())
    pairs: Sequence[tuple[str, object]] = [
        ('Criterion', criteria), ('Budget', budget or 'none'), ('Learned parameters', f'{total:,}' if total else '–'),
        ('Mean rank', f'{sum(row.rank for row in found.rows) / len(found.rows):.2f}'),
        ('Weights', found.source or '–'),
    ]  # yapf: disable
    rows = [[row.label, row.rank, '' if row.value is None else f'{row.value:.3f}',
             '' if row.params is None else f'{row.params:,}'] for row in found.rows]
    listed = table(['Layer', 'Rank', 'Value of the criterion', 'Parameters'], rows, (1, 2, 3))
    return Section('ranks', 'Ranks', Markup('{}{}<details><summary>Table</summary>{}</details>').format(
        facts(pairs), chart, listed))


def place_of(module: str, own_slice: str = '') -> tuple[str, str]:
    """Return block and kind of a layer: ``('3', 'q')`` of ``layers.3.attn.qkv`` and its slice q."""
    parts = module.split('.')
    cut = next((i for i, part in enumerate(parts) if part in _PARTS), len(parts) - 1)
    rest = '.'.join(parts[cut:])
    block = '.'.join(part for part in parts[:cut] if part.isdigit()) or '.'.join(parts[:cut]) or module
    kind = own_slice or _KINDS.get(rest) or parts[-1]
    prefix = re.match(r'(visual|text|transformer|image|vision)\w*', parts[0])
    return (f'{prefix[1]} {block}' if prefix else block), kind


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return ', '.join(f'{name}={_short(one)}' for name, one in value.items())
    text = say_number(value) if isinstance(value, float) else str(value)
    return text if len(text) <= 160 else f'{text[:159]}…'
