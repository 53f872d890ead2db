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
from .files import Folder
from .page import Missing, Section, gallery, table

MOST_CLASSES = 40  # A matrix of more is drawn for the most confused ones alone.
PAIRS = 25
ERRORS = 36


def confusions(folder: Folder) -> Section | Missing:
    """Return the confusion matrix of each test."""
    found = list(_predictions(folder))
    if not found:
        return Missing('Confusion matrix and misclassified images', _NO_PREDICTIONS)
    return Section('confusion', 'Confusion matrix', Markup('').join(
        _confusion(name if len(found) > 1 else '', kept) for name, kept in found))


_NO_PREDICTIONS = ('no predictions were saved: test a checkpoint with python tools/test.py CONFIG CHECKPOINT (without '
                   '--no-record), whose data have one label an image')


def _confusion(name: str, kept: Predictions) -> Markup:
    counts = kept.confusion()
    names = [kept.name_of(label) for label in range(len(counts))]
    wrong = int(counts.sum() - counts.trace())
    body = Markup('<h3>{}</h3>').format(name) if name else Markup('')
    body += Markup('<p>{} of {} images are classified rightly, {} wrongly. Rows are the right classes, columns the '
                   'chosen ones; each row is shaded by its parts.</p>').format(
        int(counts.trace()), int(counts.sum()), wrong)
    shown = list(range(len(counts)))
    if len(shown) > MOST_CLASSES:
        off = counts - np.diag(counts.diagonal())
        shown = sorted(np.argsort(-(off.sum(0) + off.sum(1)), kind='stable')[:MOST_CLASSES].tolist())
        body += Markup('<p class="note">Of {} classes the matrix shows the {} that are confused most; images taken for '
                       'others are left out of it.</p>').format(len(counts), MOST_CLASSES)
    body += heat_map('Confusion matrix', counts[np.ix_(shown, shown)], [names[label] for label in shown])
    pairs = sorted(((int(counts[a, b]), a, b) for a, b in zip(*np.nonzero(counts), strict=True) if a != b),
                   key=lambda pair: (-pair[0], pair[1], pair[2]))[:PAIRS]
    if pairs:
        rows = [[names[a], names[b], count, f'{100 * count / counts[a].sum():.1f} %'] for count, a, b in pairs]
        body += Markup('<details{}><summary>Most confused pairs</summary>{}</details>').format(
            Markup(' open') if len(counts) > MOST_CLASSES else '',
            table(['Right class', 'Taken for', 'Images', 'Of its class'], rows, (2, 3)))
    return body


def errors(folder: Folder) -> Section | Missing | None:
    """Return pictures of misclassified images, the most confident errors first."""
    parts = []
    found = list(_predictions(folder))
    for name, kept in found:
        if kept.errors:
            wrong = sum(a != b for a, b in zip(kept.labels, kept.predictions, strict=True))
            cards = [_card(kept, one) for one in kept.errors[:ERRORS]]
            head = Markup('<h3>{}</h3>').format(name) if len(found) > 1 else Markup('')
            parts.append(head + Markup('<p>{} of {} errors, those first of which the model was surest.</p>').format(
                len(cards), wrong) + gallery(cards))
    if parts:
        return Section('errors', 'Misclassified images', Markup('').join(parts))
    if found and all(list(kept.labels) == list(kept.predictions) for _, kept in found):
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
        scores = EpisodeScores.read(path)
        mean, interval = mean_and_interval(scores.accuracies)
        e = scores.episodes
        about = ', '.join(f'{e[key]}{unit}' for key, unit in (('n_way', '-way'), ('n_shot', '-shot'), (
            'n_query', ' queries a class')) if key in e)
        parts.append(histogram(f'{name}: {about}', scores.accuracies.tolist(), mean, interval,
                               'accuracy of an episode, percent', 'episodes'))
        parts.append(Markup('<p>Mean {:.2f} ± {:.2f} % over {} episodes (95 % interval of the mean: the band around '
                            'the line); single episodes from {:.1f} to {:.1f} %.</p>').format(
            mean, interval, len(scores.accuracies), scores.accuracies.min(), scores.accuracies.max()))
    if not parts:
        return Missing('Histogram of episodes', 'no accuracies of single episodes: test by EpisodeAccuracy with python '
                       'tools/test.py CONFIG CHECKPOINT (without --no-record)')
    return Section('episodes', 'Episodes', Markup('').join(parts))


def _episode_files(folder: Folder) -> Iterator[tuple[str, Path]]:
    yield from _details(folder, '.episodes.json')
    for path in sorted(folder.path.glob('*episodes*.json')):  # By EpisodeAccuracy(save=...)
        yield path.stem, path


def _predictions(folder: Folder) -> Iterator[tuple[str, Predictions]]:
    for name, path in _details(folder, '.predictions.json'):
        yield name, Predictions.read(path)


def _details(folder: Folder, ending: str) -> Iterator[tuple[str, Path]]:
    """Yield name and path of each file of a kind that tests have left; a later test of the same replaced it."""
    for path in sorted((folder.path / DETAILS).glob(f'*{ending}')):
        yield path.name.removesuffix(ending).rpartition('_')[0].replace('_', ', ') or path.name, path
