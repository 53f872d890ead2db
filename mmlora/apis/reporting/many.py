"""Sections about folders of many things: pools of images, hubs and banks of LoRAs, sweeps, quickstarts."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup

from ...io.hub import member_records
from ...io.lora_banks import LoRABanks
from ...io.pool import FORMAT as POOL
from ...io.pool import INDEX, Pool, PoolImage
from ..collected import METRIC
from ..records import RESULTS, read_records
from ..summarize import summarize
from ..tables import to_markdown
from .charts import histogram
from .files import Folder, naming
from .page import Missing, Section, facts, gallery, table

CLASSES, PER_CLASS = 12, 6
ROWS = 200
TABLES = ('summary.md', 'table.txt', 'table.md')


def inverted(folder: Folder) -> Section | Missing:
    """Return images of the pools in this folder."""
    parts = []
    for place in _pools(folder.path):
        with naming(place / INDEX):
            parts.append(_pool(Pool.open(place)))
    if not parts:
        return Missing('Inverted images', 'no pool in this folder: tools/invert.py writes one')
    return Section('inverted', 'Inverted images', Markup('').join(parts))


def _pools(folder: Path) -> Iterator[Path]:
    for place in [folder, *(path for path in sorted(folder.iterdir()) if path.is_dir())]:
        index = place / INDEX
        if index.is_file():
            with open(index, encoding='utf-8', errors='replace') as file:
                if POOL in file.read(200):
                    yield place


def _pool(pool: Pool) -> Markup:
    by_class: dict[int, list[PoolImage]] = {}
    for image in pool.images:
        by_class.setdefault(image.gt_label, []).append(image)
    cards = []
    for label in sorted(by_class)[:CLASSES]:
        for image in by_class[label][:PER_CLASS]:
            name = pool.classes[label]
            right = Markup('<span class="good">recognised</span>') if image.correct else Markup(
                '<span class="bad">not recognised</span>')
            caption = Markup('{}<br>{}, loss {:.3f}<br>LoRA {}').format(name, right, image.loss, image.lora)
            cards.append((pool.pixels(image), f'Synthetic image of {name}', caption))
    hits = sum(image.correct for image in pool.images)
    head = Markup('<h3>{}</h3><p>{} of {} images, made without data from the LoRAs of a hub; {} of all are taken for '
                  'their class by the LoRA that they were made from.</p>').format(
        pool.folder.name, len(cards), len(pool.images), hits)
    about, settings = pool.about, pool.about.get('settings') or {}
    return head + facts([
        (name, value) for name, value in (
            ('LoRAs', len(about.get('loras') or [])), ('Seed', about.get('seed')),
            ('Iterations', settings.get('iterations')), ('Kept', settings.get('keep')),
            ('Pruned in layers', ', '.join(map(str, settings.get('prune_layers') or ()))),
            ('Hash of the frozen weights', about.get('base'))) if value not in (None, '')
    ]) + gallery(cards)  # yapf: disable


def members(folder: Folder) -> Section | Missing:
    """Return the members of a hub or of banks in this folder."""
    if _is_banks(folder.path):
        banks = LoRABanks.open(folder.path)
        rows = [[task.name, len(task.checkpoints), _percent(task.checkpoints[0].metric if task.checkpoints else None),
                 ', '.join(task.classes)] for task in banks.tasks]
        head = ['Task', 'Checkpoints', banks.metric, 'Classes']
        return _listed('Banks of LoRAs', rows, head, str(banks.full_spec.base_sha256))
    records = member_records(folder.path)
    if not records:
        return Missing('Members of a hub', 'no LoRAs in this folder: tools/pretune_hub.py trains them')
    rows = [[name, record.get('rank', ''), _percent((record.get('metrics') or {}).get(METRIC)),
             ', '.join(map(str, record.get('classes') or []))] for name, record in records.items()]
    bases = {str((record.get('base') or {}).get('sha256')) for record in records.values()}
    return _listed('Members of the hub', rows, ['LoRA', 'Rank', METRIC, 'Classes'], ', '.join(sorted(bases)))


def _is_banks(folder: Path) -> bool:
    index = folder / INDEX
    if not index.is_file():
        return False
    with open(index, encoding='utf-8', errors='replace') as file:
        return 'mmlora LoRA banks' in file.read(200)


def _listed(title: str, rows: Sequence[Sequence[object]], head: Sequence[str], base: str) -> Section:
    numbers = [float(str(row[2]).removesuffix(' %')) for row in rows if row[2]]
    body = facts([('Number', len(rows)), (f'Mean of {head[2]}', f'{np.mean(numbers):.2f}' if numbers else '–'),
                  ('Hash of the frozen weights', base)])
    if len(numbers) > 1:
        half = 1.96 * float(np.std(numbers, ddof=1)) / len(numbers)**0.5
        body += histogram(f'{head[2]} of each', numbers, float(np.mean(numbers)), half, head[2], 'LoRAs')
    note = f'The first {ROWS} of {len(rows)}.' if len(rows) > ROWS else ''
    return Section('members', title, body + Markup('<p class="note">{}</p>').format(note) + table(
        head, rows[:ROWS], (1, 2)))


def _percent(value: object) -> str:
    return f'{value:.1f} %' if isinstance(value, int | float) else ''


def tables(folder: Folder) -> Section | Missing:
    """Return tables of many runs: those that a sweep or a quickstart has written, else of the results found below."""
    found = [folder.path / name for name in TABLES if (folder.path / name).is_file()]
    if found:
        body = Markup('').join(markdown(path.read_text(encoding='utf-8', errors='replace')) for path in found)
        return Section('tables', 'Tables', body)
    below = [path for path in folder.path.glob(f'**/{RESULTS}') if path.parent != folder.path]
    if not below:
        return Missing('Tables of many runs', 'this is the folder of one run, or none below it was tested')
    metrics = next((entry['metrics'] for path in below for entry in read_records(path)), {})
    metric = METRIC if METRIC in metrics else next(iter(metrics), METRIC)
    return Section('tables', 'Tables', markdown(to_markdown(summarize([folder.path], metric))))


def markdown(text: str) -> Markup:
    """Return the headings, lists, paragraphs and tables of a Markdown text; any other text keeps its lines."""
    parts: list[Markup] = []
    blocks = [block.splitlines() for block in text.replace('\r', '').split('\n\n') if block.strip()]
    for lines in blocks:
        if lines[0].startswith('#'):
            parts.append(Markup('<h3>{}</h3>').format(lines[0].lstrip('# ')))
            lines = lines[1:]
        if len(lines) > 1 and all(line.startswith('|') for line in lines):
            rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in lines]
            parts.append(table(rows[0], rows[2:]))
        elif lines and all(line.startswith('- ') for line in lines):
            parts.append(Markup('<ul>{}</ul>').format(Markup('').join(
                Markup('<li>{}</li>').format(line[2:]) for line in lines)))
        elif len(lines) == 1:
            parts.append(Markup('<p>{}</p>').format(lines[0]))
        elif lines:
            parts.append(Markup('<pre>{}</pre>').format('\n'.join(lines)))
    return Markup('').join(parts)
