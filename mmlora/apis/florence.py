"""What ``tools/florence.py`` calls: tasks of single classes, task vectors and adapter folders of Florence-2."""

import copy
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DefaultScope
from mmengine.runner.checkpoint import load_state_dict
from mmpretrain.registry import DATASETS
from torch import Tensor

from ..adapters.lora_weights import read_lora
from ..datasets.florence import DETECTION, filter_annotations, read_annotations
from ..engine.adaptation import check_scalings
from ..engine.hooks.strict_load_hook import compare_keys
from ..io.atomic import write_text
from ..io.checkpoint import load_checkpoint
from ..io.location_tokens import write_boxes
from ..io.lora_folder import write_lora_folder
from ..io.task_vectors import TaskVectors
from ..io.weights import unwrap
from ..models.florence import FlorenceDetector
from ..registry import MODELS
from .variables import settle_variables

NUM_IMAGES = 30
"""Images of a published task vector."""


def filter_florence(source: str | os.PathLike, classes: Sequence[str], out: str | os.PathLike) -> int:
    """Write the annotations of some classes as a file of their own, in the form that the published loader reads.

    Args:
        source: A JSONL file.
        classes: Whole names of classes; images without a box of them are left out.
        out: The file to write.

    Returns:
        The number of images that are left.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line cannot be used, or a class has no box.
    """
    kept = filter_annotations(read_annotations(source), classes)
    lines = []
    for image in kept:
        others = {key: value for key, value in image.entry.items() if key != 'image_path'}
        texts = dict(image=image.image, prefix=image.prefix or DETECTION, suffix=write_boxes(image.boxes))
        lines.append(json.dumps({**others, **texts}, ensure_ascii=False))
    write_text(out, '\n'.join(lines) + '\n')
    return len(kept)


def load_detector(cfg: Config, checkpoint: str) -> FlorenceDetector:
    """Build the model of a config and load a checkpoint into it, as strictly as a test does.

    Args:
        cfg: The config; it is not changed.
        checkpoint: A checkpoint of it.

    Raises:
        ValueError: The config is of another model, or the checkpoint does not fit it.
        FileNotFoundError: There is no such checkpoint.
    """
    given = load_checkpoint(checkpoint)
    model_cfg = copy.deepcopy(cfg.model)
    if cfg.get('data_preprocessor'):
        model_cfg.setdefault('data_preprocessor', cfg.data_preprocessor)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(model_cfg)
    if not isinstance(model, FlorenceDetector):
        raise ValueError(f'the model of the config is a {type(model).__name__}, where a FlorenceDetector is needed')
    state = unwrap(given, checkpoint)
    report = compare_keys(model, state)
    if report:
        raise ValueError(f'{checkpoint} does not fit the model: {report}')
    check_scalings(model, (given.get('meta') or {}).get('mmlora'))
    load_state_dict(model, state, strict=True)
    return model.eval()


def florence_task_vector(
    cfg: Config,
    checkpoint: str,
    out: str | os.PathLike | None = None,
    num_images: int = NUM_IMAGES,
    task: str | None = None,
) -> Tensor:
    """Return the published task vector of a tuned model, ``(D,)``, from the first training images.

    Args:
        cfg: The config of the checkpoint; it is not changed. The images go through the pipeline of its tests.
        checkpoint: The tuned model.
        out: A file of task vectors, as a generator reads it (:mod:`mmlora.io.task_vectors`). Where it is there, the
            vector is added, or takes the place of that of the same task. None writes none.
        num_images: Number of images; all where there are fewer.
        task: Name of the task, the same as in the bank; by default that of its classes.

    Raises:
        ValueError: An argument is out of range, the checkpoint does not fit the config, or the file holds vectors of
            other weights or numbers of images.
        FileNotFoundError: The checkpoint or the data do not exist.
    """
    if num_images < 1:
        raise ValueError(f'num_images must be at least 1, got {num_images}')
    if out is not None and Path(out).suffix != '.safetensors':
        raise ValueError(f'{os.fspath(out)!r} must end in .safetensors')
    cfg = copy.deepcopy(cfg)
    settle_variables(cfg)
    dataset = _training_images(cfg)
    model = load_detector(cfg, checkpoint)
    record = dict(encoder=dict(type='DecoderStates'), base_sha256=model.base_sha256, shot=num_images)
    earlier = _earlier_vectors(out, record)
    model.to('cuda' if torch.cuda.is_available() else 'cpu')
    count = min(num_images, len(dataset))
    vector = model.task_vector(pseudo_collate([dataset[index]]) for index in range(count))
    if out is not None:
        name = task or '-'.join(dataset.metainfo['classes'])
        TaskVectors({**earlier, name: vector[None]}, record).write(out)
    return vector


def _earlier_vectors(out: str | os.PathLike | None, record: dict[str, Any]) -> dict[str, Tensor]:
    if out is None or not Path(out).is_file():
        return {}
    earlier = TaskVectors.open(out)
    if dict(earlier.record) != record:
        raise ValueError(f'{os.fspath(out)!r} holds task vectors with the record {dict(earlier.record)}, and this one '
                         f'would have {record}: write it to another file')
    return dict(earlier.vectors)


def _training_images(cfg: Config) -> Any:
    dataset = copy.deepcopy(cfg.train_dataloader.dataset)
    dataset.pipeline = cfg.test_dataloader.dataset.pipeline
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return DATASETS.build(dataset)


def export_florence(cfg: Config, checkpoint: str, out: str | os.PathLike) -> Path:
    """Write the LoRA of a tuned model as a folder that peft loads onto ``Florence2ForConditionalGeneration``.

    Only factors are written: the head over the vocabulary shares its weight with the embedding of tokens, so that peft
    itself would write the whole matrix beside them.

    Args:
        cfg: The config of the checkpoint; it is not changed.
        checkpoint: The tuned model.
        out: The folder.

    Returns:
        The folder.

    Raises:
        ValueError: The checkpoint does not fit the config, or the folder holds other things.
        FileNotFoundError: There is no such checkpoint.
    """
    model = load_detector(cfg, checkpoint)
    record = dict(task=DETECTION, base=dict(sha256=model.base_sha256, location=str(cfg.model.pretrained)))
    card = (f'# LoRA of Florence-2\n\nOf the weights `{cfg.model.pretrained}`, for detection with the prompt '
            f'`{DETECTION}`. Load it with `peft.PeftModel.from_pretrained(model, folder)` onto transformers\' '
            '`Florence2ForConditionalGeneration`.\n')
    return write_lora_folder(out, read_lora(model.backbone), record, card=card)
