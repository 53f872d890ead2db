"""Whether a checkpoint of LoRACLIP was made for the model of a run, before it is loaded."""

from collections.abc import Mapping
from typing import Any

import torch.nn as nn
from mmengine.logging import print_log
from mmengine.runner import BaseLoop, Runner

from ..models.clip import LoRACLIPClassifier
from ..models.clip.settings import check_structure, describe_clip, prompts_difference
from .protocol import describe_run, name_data

SIZES = ('arch', 'backbone')


def check_clip_run(
    runner: Runner, model: nn.Module, about: Mapping[str, Any] | None, fine_tune: bool, other_prompts: bool
) -> None:
    """Compare the settings that a checkpoint carries with those of the model.

    Tested and resumed models must be the same but for the dropout. Classes and templates must be the same where the
    data set is: on another one (the new classes of a split, other images) images are compared with its names, and the
    log says so. A run that starts from the factors of another one may have other classes and another logit scale.

    Args:
        runner: The runner; its data are built.
        model: The model, unwrapped. Only one of CLIP is looked at.
        about: ``meta['mmlora']`` of the checkpoint; checkpoints that say nothing are let through.
        fine_tune: Whether a new run starts from the checkpoint.
        other_prompts: Whether classes and templates may differ.

    Raises:
        ValueError: They differ; both sides are quoted.
    """
    given = dict((about or {}).get('clip') or {})
    if not given or not isinstance(model, LoRACLIPClassifier):
        return
    own, where = describe_clip(model), str(runner._load_from)
    if fine_tune:
        kept = [name for name in given if name != 'logit_scale'] if 'rank' in given else SIZES
        check_structure(own, {name: given[name] for name in kept}, where)
        return
    check_structure(own, given, where)
    difference = prompts_difference(own, given)
    if difference is None:
        return
    trained = ((about or {}).get('protocol') or {}).get('dataset_name')
    tested = _data_name(runner)
    if not other_prompts and trained in (None, tested):
        raise ValueError(
            f'{where} was trained with other prompts: {difference}. Give the same names and templates; where others '
            "are meant, custom_hooks=[dict(type='StrictLoadHook', other_prompts=True), ...] allows them"
        )
    print_log(f'{where}, trained on {trained}, meets other prompts on {tested}: {difference}', 'current')


def _data_name(runner: Runner) -> str:
    if runner._resume:
        return describe_run(runner.cfg)['dataset_name']
    loader = next((f'{kind}_dataloader' for kind in ('test', 'val')
                   if isinstance(getattr(runner, f'_{kind}_loop'), BaseLoop)), 'test_dataloader')
    return name_data(runner.cfg, (runner.cfg.get(loader) or {}).get('dataset'))


def check_clip_settings(model: nn.Module, about: Mapping[str, Any] | None, where: str) -> None:
    """Check that a checkpoint was made for a model like this, whatever its classes are called.

    Raises:
        ValueError: They differ; both sides are quoted.
    """
    given = (about or {}).get('clip')
    if given and isinstance(model, LoRACLIPClassifier):
        check_structure(describe_clip(model), given, where)
