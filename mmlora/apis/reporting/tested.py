"""Sections about tests: confusions, misclassified images, single episodes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from ...evaluation import EpisodeScores, Predictions, mean_and_interval
from ...evaluation.predictions import decode_picture
from ..details import FOLDER as DETAILS
from .charts import heat_map, histogram
from .files import Folder, naming
from .page import Missing, Section, gallery, table

MOST_CLASSES = 40  # A matrix of more is drawn for the most confused ones alone.
PAIRS = 25
ERRORS = 36


def confusions(folder: Folder) -> Section | Missing:
    """Return the confusion matrix of each test."""
    found = list(_predictions(folder))
    if not found:
        return Missing('Confusion matrix and misclassified images', _why_none(folder))
    return Section('confusion', 'Confusion matrix', Markup('').join(
        _confusion(name if len(found) > 1 else '', kept) for name, _, kept in found))


_NO_PREDICTIONS = ('no predictions were saved: test a checkpoint with python tools/test.py CONFIG CHECKPOINT (without '
                   '--no-record), whose data have one label an image')


def _why_none(folder: Folder) -> str:
    try:
        details = [entry.get('details') for entry in folder.records]
    except ValueError:
        return _NO_PREDICTIONS  # The section of the results names the damaged file.
    return next((f'the predictions were not kept: {one["not_kept"]}' for one in reversed(details)
                 if isinstance(one, dict) and 'not_kept' in one), _NO_PREDICTIONS)


def _confusion(name: str, kept: Predictions) -> Markup:
    right, chosen, counts = kept.confusions()
    sums, off = np.zeros(kept.size, np.int64), np.zeros(kept.size, np.int64)
    np.add.at(sums, right, counts)
    for side in (right, chosen):
        np.add.at(off, side[right != chosen], counts[right != chosen])
    wrong = int(off.sum()) // 2
    body = Markup('<h3>{}</h3>').format(name) if name else Markup('')
    body += Markup('<p>{} of {} images are classified rightly, {} wrongly. Rows are the right classes, columns the '
                   'chosen ones; each row is shaded by its parts.</p>').format(
        len(kept.labels) - wrong, len(kept.labels), wrong)
    shown = list(range(kept.size))
    if kept.size > MOST_CLASSES:
        shown = sorted(np.argsort(-off, kind='stable')[:MOST_CLASSES].tolist())
        body += Markup('<p class="note">Of {} classes the matrix shows the {} that are confused most; images taken for '
                       'others are left out of it.</p>').format(kept.size, MOST_CLASSES)
    place = {label: number for number, label in enumerate(shown)}
    matrix = np.zeros((len(shown), len(shown)), np.int64)
    triples = list(zip(right.tolist(), chosen.tolist(), counts.tolist(), strict=True))
    for a, b, count in triples:
        if a in place and b in place:
            matrix[place[a], place[b]] = count
    body += heat_map('Confusion matrix', matrix, [kept.name_of(label) for label in shown])
    pairs = sorted((one for one in triples if one[0] != one[1]), key=lambda one: (-one[2], *one[:2]))[:PAIRS]
    if pairs:
        rows = [[kept.name_of(a), kept.name_of(b), count, f'{100 * count / sums[a]:.1f} %'] for a, b, count in pairs]
        body += Markup('<details{}><summary>Most confused pairs</summary>{}</details>').format(
            Markup(' open') if kept.size > MOST_CLASSES else '',
            table(['Right class', 'Taken for', 'Images', 'Of its class'], rows, (2, 3)))
    return body


def errors(folder: Folder) -> Section | Missing | None:
    """Return pictures of misclassified images, the most confident errors first."""
    parts = []
    found = list(_predictions(folder))
    for name, path, kept in found:
        if kept.errors:
            wrong = sum(a != b for a, b in zip(kept.labels, kept.predictions, strict=True))
            with naming(path):
                cards = [_card(kept, one) for one in kept.errors[:ERRORS]]
            head = Markup('<h3>{}</h3>').format(name) if len(found) > 1 else Markup('')
            parts.append(head + Markup('<p>{} of {} errors, those first of which the model was surest.</p>').format(
                len(cards), wrong) + gallery(cards))
    if parts:
        return Section('errors', 'Misclassified images', Markup('').join(parts))
    if found and all(list(kept.labels) == list(kept.predictions) for *_, kept in found):
        return Missing('Misclassified images', 'there are none: all images are classified rightly')
    return Missing('Misclassified images', 'the errors have no pictures: the test read its images in an order of its '
                   'own') if found else None


def _card(kept: Predictions, one: Any) -> tuple[np.ndarray | None, str, Markup]:
    right, chosen = kept.name_of(kept.labels[one.index]), kept.name_of(kept.predictions[one.index])
    pixels = None if one.png is None else np.asarray(decode_picture(one.png))
    score = kept.scores[one.index]
    sure = f'{100 * score:.1f} %' if 0 <= score <= 1 else f'score {score:.3g}'
    caption = Markup('<span class="bad">{}</span> {}<br>is <span class="good">{}</span><br><code>{}</code>').format(
        chosen, sure, right, one.path or f'image {one.index}')
    return pixels, f'Image {one.index}: {right}, taken for {chosen}', caption


def episodes(folder: Folder) -> Section | Missing:
    """Return a histogram of the accuracies of single episodes, for each test by episodes."""
    parts = []
    for name, path in _episode_files(folder):
        with naming(path):
            parts.append(_episodes(name, EpisodeScores.read(path)))
    if not parts:
        return Missing('Histogram of episodes', 'no accuracies of single episodes: test by EpisodeAccuracy with python '
                       'tools/test.py CONFIG CHECKPOINT (without --no-record)')
    return Section('episodes', 'Episodes', Markup('').join(parts))


def _episodes(name: str, scores: EpisodeScores) -> Markup:
    accuracies, e = scores.accuracies, scores.episodes
    if not np.all((accuracies >= 0) & (accuracies <= 100)):
        raise ValueError(f'accuracies are from 0 to 100 percent, got {accuracies.min():.4g} to {accuracies.max():.4g}')
    mean, interval = mean_and_interval(accuracies)
    about = ', '.join(f'{e[key]}{unit}' for key, unit in (('n_way', '-way'), ('n_shot', '-shot'), (
        'n_query', ' queries a class')) if key in e)
    chart = histogram(f'{name}: {about}', accuracies.tolist(), mean, interval, 'accuracy of an episode, percent',
                      'episodes')
    return chart + Markup('<p>Mean {:.2f} ± {:.2f} % over {} episodes (95 % interval of the mean: the band around '
                          'the line); single episodes from {:.1f} to {:.1f} %.</p>').format(
        mean, interval, len(accuracies), accuracies.min(), accuracies.max())


def _episode_files(folder: Folder) -> Iterator[tuple[str, Path]]:
    yield from _details(folder, '.episodes.json')
    for path in sorted(folder.path.glob('*episodes*.json')):  # By EpisodeAccuracy(save=...)
        yield path.stem, path


def _predictions(folder: Folder) -> Iterator[tuple[str, Path, Predictions]]:
    for name, path in _details(folder, '.predictions.json'):
        with naming(path):
            kept = Predictions.read(path)
        yield name, path, kept


def _details(folder: Folder, ending: str) -> Iterator[tuple[str, Path]]:
    """Yield name and path of each file of a kind that tests have left; a later test of the same replaced it."""
    for path in sorted((folder.path / DETAILS).glob(f'*{ending}')):
        yield path.name.removesuffix(ending).rpartition('_')[0].replace('_', ', ') or path.name, path
