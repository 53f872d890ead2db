"""What a test leaves beside its numbers, for ``tools/report.py``: predictions, pictures of errors, single episodes."""

import base64
import hashlib
import io
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.fileio import get
from mmengine.runner import Runner
from PIL import Image

from ..datasets.feature_dataset import locate
from ..evaluation import EpisodeAccuracy, ErrorPicture, KeepPredictions, Predictions

FOLDER = 'details'
PICTURES, SIDE = 36, 96  # How many errors are pictured, and how large in pixels.
_IDENTITY = ('method', 'dataset_name', 'shot', 'split', 'seed', 'trained_on', 'test')


def keep_details(runner: Runner) -> None:
    """Let a runner that will test keep what :func:`write_details` writes."""
    metrics = runner.test_evaluator.metrics
    if not any(isinstance(metric, EpisodeAccuracy) for metric in metrics):
        keep = KeepPredictions()
        keep.dataset_meta = getattr(runner.test_dataloader.dataset, 'metainfo', None)
        metrics.append(keep)


def write_details(folder: Path, runner: Runner, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Write what a test has kept into ``details`` of a folder.

    Args:
        folder: Where the result is recorded.
        runner: It has tested.
        entry: The result; a later test of the same replaces its files.

    Returns:
        The files, relative to the folder: ``predictions``, and ``episodes`` by their prefix; what there is of them.
    """
    stem, found = _stem(entry), {}
    for metric in runner.test_evaluator.metrics:
        if isinstance(metric, KeepPredictions) and metric.kept is not None:
            kept = with_pictures(metric.kept, runner.test_dataloader.dataset)
            found['predictions'] = _within(folder, kept.write(folder / FOLDER / f'{stem}.predictions.json'))
        elif isinstance(metric, EpisodeAccuracy) and metric.scores is not None:
            name = re.sub(r'[^\w.-]+', '-', metric.prefix or 'episode')
            path = metric.scores.write(folder / FOLDER / f'{stem}.{name}.episodes.json')
            found.setdefault('episodes', {})[metric.prefix or 'episode'] = _within(folder, path)
    return found


def with_pictures(kept: Predictions, dataset: Any, limit: int = PICTURES, side: int = SIDE) -> Predictions:
    """Return predictions with pictures of the most confident errors.

    Args:
        kept: The predictions.
        dataset: The data set, in the order of the predictions.
        limit: Pictures at most.
        side: Their larger side, in pixels.
    """
    if len(dataset) != len(kept.labels):
        return kept  # A sampler of a user's own: which image a prediction is of is not known.
    errors = [_picture(dataset, index, side) for index in kept.most_confident_errors(limit)]
    return replace(kept, errors=tuple(errors))


def _picture(dataset: Any, index: int, side: int) -> ErrorPicture:
    try:
        part, place = locate(dataset, index)
        info = part.get_data_info(place)
    except TypeError:  # A wrapper of a user's own.
        return ErrorPicture(index, None, None)
    path = info.get('img_path')
    image = _shrunk(info, side)
    if image is None:
        return ErrorPicture(index, _relative(path, part), None)
    content = io.BytesIO()
    image.save(content, 'PNG', optimize=True)
    return ErrorPicture(index, _relative(path, part), base64.b64encode(content.getvalue()).decode())


def _shrunk(info: Mapping[str, Any], side: int) -> Image.Image | None:
    """Return a small RGB image, or None where it cannot be read."""
    try:
        if isinstance(info.get('img'), np.ndarray):
            pixels = np.squeeze(info['img']).astype(np.uint8)
            image = Image.fromarray(pixels[..., ::-1] if pixels.ndim == 3 else pixels)  # OpenMMLab's order is BGR.
        elif info.get('img_path'):
            image = Image.open(io.BytesIO(get(str(info['img_path']))))
            image.draft('RGB', (side, side))
        else:
            return None
        image = image.convert('RGB')
    except (OSError, SyntaxError, ValueError, TypeError, Image.DecompressionBombError):
        return None
    if max(image.size) > side:
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image


def _relative(path: Any, dataset: Any) -> str | None:
    if not path:
        return None
    root = str(getattr(dataset, 'data_root', '') or '')
    text = str(path)
    return text[len(root):].lstrip('/') if root and text.startswith(root) else Path(text).name


def _stem(entry: Mapping[str, Any]) -> str:
    ways = {name: entry['protocol'].get(name) for name in ('tta', 'amp')}
    about = [{name: entry.get(name) for name in _IDENTITY}, entry['checkpoint']['name'], ways]
    key = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()[:8]
    words = f'{Path(entry["checkpoint"]["name"]).stem}_{entry["dataset_name"]}'
    return f'{re.sub(r"[^A-Za-z0-9.-]+", "-", words)[:80]}_{key}'


def _within(folder: Path, path: Path) -> str:
    return path.relative_to(Path(folder).resolve()).as_posix()
