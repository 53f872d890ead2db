"""What a test leaves beside its numbers, for ``tools/report.py``: predictions, pictures of errors, single episodes."""

import base64
import hashlib
import io
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from mmengine.fileio import get
from mmengine.logging import print_log
from mmengine.runner import Runner
from PIL import Image
from torch import Tensor

from ..datasets.feature_dataset import locate
from ..datasets.loading import LoadImageFromFile
from ..engine.adaptation import unwrap_model
from ..evaluation import EpisodeAccuracy, ErrorPicture, KeepPredictions, Predictions
from .records import write_record

FOLDER = 'details'
PICTURES, SIDE = 36, 96  # How many errors are pictured, and how large in pixels.
FAILURES = (OSError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RuntimeError, ImportError,
            MemoryError, SyntaxError, Image.DecompressionBombError)
"""What damaged files, missing clients of storage and full disks raise; none of it is worth a result."""
_IDENTITY = ('method', 'dataset_name', 'shot', 'split', 'seed', 'trained_on', 'test')


def keep_details(runner: Runner) -> None:
    """Let a runner that will test keep what :func:`write_details` writes."""
    metrics = runner.test_evaluator.metrics
    if not any(isinstance(metric, EpisodeAccuracy) for metric in metrics):
        keep = KeepPredictions()
        keep.dataset_meta = getattr(runner.test_dataloader.dataset, 'metainfo', None)
        metrics.append(keep)


def add_details(folder: Path, runner: Runner, entry: Mapping[str, Any]) -> None:
    """Write what a test has kept, and name it in its result; what fails there is warned of, and the result stays.

    Args:
        folder: Where the result is recorded already.
        runner: It has tested.
        entry: The result.
    """
    try:
        found = write_details(folder, runner, entry)
        if found:
            write_record(folder, dict(entry, details=found))
    except FAILURES as error:
        print_log(f'The predictions and episodes that tools/report.py shows are not kept in {Path(folder) / FOLDER} '
                  f'({type(error).__name__}: {error}). The result itself is recorded.', logger='current',
                  level=logging.WARNING)


def write_details(folder: Path, runner: Runner, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Write what a test has kept into ``details`` of a folder.

    Args:
        folder: Where the result is recorded.
        runner: It has tested.
        entry: The result; a later test of the same replaces its files.

    Returns:
        The files, relative to the folder: ``predictions``, and ``episodes`` by their prefix; what there is of them.
        Where predictions could not be kept, ``not_kept`` says why.
    """
    stem, found = _stem(entry), {}
    for metric in runner.test_evaluator.metrics:
        if isinstance(metric, KeepPredictions) and metric.why is not None:
            found['not_kept'] = metric.why
        elif isinstance(metric, KeepPredictions) and metric.kept is not None:
            to_rgb = getattr(unwrap_model(runner.model).data_preprocessor, 'to_rgb', False)
            kept = with_pictures(metric.kept, runner.test_dataloader.dataset, bool(to_rgb))
            found['predictions'] = _within(folder, kept.write(folder / FOLDER / f'{stem}.predictions.json'))
        elif isinstance(metric, EpisodeAccuracy) and metric.scores is not None:
            name = re.sub(r'[^\w.-]+', '-', metric.prefix or 'episode')
            path = metric.scores.write(folder / FOLDER / f'{stem}.{name}.episodes.json')
            found.setdefault('episodes', {})[metric.prefix or 'episode'] = _within(folder, path)
    return found


def with_pictures(
    kept: Predictions, dataset: Any, to_rgb: bool = False, limit: int = PICTURES, side: int = SIDE
) -> Predictions:
    """Return predictions with pictures of the most confident errors.

    Args:
        kept: The predictions.
        dataset: The data set, in the order of the predictions.
        to_rgb: Whether the model turns round the channels of prepared images.
        limit: Pictures at most.
        side: Their larger side, in pixels.
    """
    if len(dataset) != len(kept.labels):
        return kept  # A sampler of a user's own: which image a prediction is of is not known.
    errors, failures = [], []
    for index in kept.most_confident_errors(limit):
        try:
            errors.append(_picture(dataset, index, to_rgb, side))
        except FAILURES as error:
            errors.append(ErrorPicture(index, None, None))
            failures.append(f'image {index}, {type(error).__name__}: {error}')
    if failures:
        print_log(f'{len(failures)} of {len(errors)} misclassified images are kept without a picture; the first: '
                  f'{failures[0]}', logger='current', level=logging.WARNING)
    return replace(kept, errors=tuple(errors))


def _picture(dataset: Any, index: int, to_rgb: bool, side: int) -> ErrorPicture:
    try:
        part, place = locate(dataset, index)
    except TypeError:  # A wrapper of a user's own.
        return ErrorPicture(index, None, None)
    path = part.get_data_info(place).get('img_path')
    image = _read(part, str(path), side) if path else _prepared(part, place, to_rgb)
    if image is None:
        return ErrorPicture(index, _relative(path, part), None)
    if max(image.size) > side:
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    image.save(content, 'PNG', optimize=True)
    return ErrorPicture(index, _relative(path, part), base64.b64encode(content.getvalue()).decode())


def _read(dataset: Any, path: str, side: int) -> Image.Image:
    """Return the RGB image in a file, which lies where the pipeline of the data set reads it."""
    steps = getattr(getattr(dataset, 'pipeline', None), 'transforms', ())
    loader = next((step for step in steps if isinstance(step, LoadImageFromFile)), None)
    image = Image.open(io.BytesIO(loader.fetch(path) if loader else get(path)))
    image.draft('RGB', (side, side))
    return image.convert('RGB')


def _prepared(dataset: Any, place: int, to_rgb: bool) -> Image.Image | None:
    """Return an image of a data set without files as the model is shown it, in RGB."""
    inputs = dataset[place].get('inputs')
    if not isinstance(inputs, Tensor) or inputs.ndim != 3 or inputs.shape[0] not in (1, 3):
        return None
    pixels = inputs.float()
    if inputs.dtype != torch.uint8:  # Normalised already, by whatever it was.
        pixels = 255 * (pixels - pixels.min()) / (pixels.max() - pixels.min()).clamp(min=1e-6)
    pixels = (pixels.flip(0) if to_rgb else pixels).expand(3, -1, -1).permute(1, 2, 0)  # (C, H, W) -> (H, W, 3)
    return Image.fromarray(pixels.round().byte().contiguous().numpy())


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
