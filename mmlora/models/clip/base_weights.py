"""The frozen weights of a CLIP: which they are, by hash, and how they come to an adapter that is kept without them."""

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor

from ...adapters import adapter_tensor_names
from ...io.checkpoint import load_checkpoint
from ...io.clip_folder import ADAPTER
from ...io.convert import CONVERTED
from ...io.nests import unwrap
from ...ranks import weights_sha256
from ..backbones.load_guard import LEARNED
from ..backbones.ranks import pretrained_checkpoint
from ..pretrained import fit_weights
from .classifier import LoRACLIPClassifier
from .openai_keys import convert_openai_keys, is_openai

RESIZED = 'visual.pos_embed'
"""Not part of the hash: it is resized where images have another size, which is rounded differently here and there."""

_HOW = "in a config as init_cfg=dict(type='Pretrained', checkpoint=...) of the model, in Python as weights=..."
PARTS = ('visual.', 'visual_proj.', 'text.', 'logit_scale')


def base_sha256(model: LoRACLIPClassifier, state: Mapping[str, Tensor] | None = None) -> str:
    """Return one hash for the frozen weights of both towers, read as float32, under the names of this package.

    The same weights give the same hash from files of every layout and type. The position embedding of images is left
    out, and so is a temperature that learns.

    Args:
        model: The model; merged layers count with their frozen weights.
        state: Takes the place of the state dict of the model.
    """
    own = model.state_dict()
    left = adapter_tensor_names(model) | {RESIZED} | ({'logit_scale'} if model.scale.learned else set())
    names = [key for key in own if key.startswith(PARTS) and key not in left]
    state = own if state is None else state
    return weights_sha256({key: torch.atleast_1d(state[key].float()) for key in names})


def read_base(model: LoRACLIPClassifier, weights: str) -> dict[str, Tensor]:
    """Read the frozen weights of a model from a file of any layout that LoRACLIP takes.

    Args:
        model: The model that they are for; it is not changed.
        weights: Anything that the checkpoint loader reads; of a checkpoint of LoRACLIP its frozen weights are taken.

    Returns:
        A state dict without factors.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It holds no CLIP of these sizes.
    """
    checkpoint = load_checkpoint(weights)
    if ADAPTER in checkpoint:
        raise ValueError(f'{weights} is an adapter folder, which holds no frozen weights: give the weights of the CLIP')
    converted = checkpoint.get(CONVERTED)
    if converted is not None:
        state = fit_weights(converted, model, str(weights))
    else:
        state = unwrap(checkpoint, str(weights))
        state = convert_openai_keys(state) if is_openai(state) else state
        state = {key: value for key, value in state.items() if not LEARNED.search(key)}
    own, factors = model.state_dict(), adapter_tensor_names(model)
    wanted = [key for key in own if key.startswith(PARTS) and key not in factors]
    missing = [key for key in wanted if key not in state]
    if missing:
        raise ValueError(f'{weights} lacks {len(missing)} of the {len(wanted)} weights of the CLIP, the first: '
                         f'{missing[:5]}; its names begin with {list(state)[:3]}')
    other = [f'{key} is {tuple(state[key].shape)}, the model has {tuple(own[key].shape)}' for key in wanted
             if state[key].shape != own[key].shape]
    if other:
        raise ValueError(f'{weights} is a CLIP of other sizes: {"; ".join(other[:5])}')
    return {key: state[key] for key in wanted}


def check_base(model: LoRACLIPClassifier, base: Mapping[str, Tensor], about: Mapping[str, Any], weights: str) -> None:
    """Compare frozen weights with those that an adapter was made on.

    Raises:
        ValueError: They are others; both hashes are quoted.
    """
    wanted, folder = about.get('sha256'), about.get('folder', 'the adapter')
    if wanted is None:
        print_log(f'{folder} does not say which frozen weights it was made on: {weights} is taken unchecked', 'current')
        return
    found = base_sha256(model, base)
    if found != wanted:
        raise ValueError(
            f'{folder} was made on other frozen weights than those of {weights}: their sha256 is {wanted} there'
            f'{_at(about)} and {found} here. Give the weights that the adapter was trained on'
        )


def complete_adapter(
    model: LoRACLIPClassifier, checkpoint: dict[str, Any], weights: str | None = None
) -> dict[str, Tensor]:
    """Return the whole state of a model from the checkpoint of an adapter folder, with the frozen weights read.

    Args:
        model: The model; it is not changed.
        checkpoint: From :func:`mmlora.io.clip_folder.folder_checkpoint`.
        weights: The frozen weights; by default those of the model's ``init_cfg``, else where the folder says that they
            are.

    Raises:
        ValueError: It is not known where the weights are, or they are not those that the adapter was made on.
        FileNotFoundError: They are not there.
    """
    about = checkpoint[ADAPTER]
    place = weights or pretrained_checkpoint(getattr(model, 'init_cfg', None)) or about.get('location')
    if not place:
        raise ValueError(
            f'{about["folder"]} does not say where its frozen weights are (sha256 {about.get("sha256")}): give their '
            f'file, {_HOW}'
        )
    try:
        base = read_base(model, place)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f'the frozen weights of {about["folder"]} (sha256 {about.get("sha256")}) are not to be found: {error}. '
            f'Give their file, {_HOW}'
        ) from error
    check_base(model, base, about, place)
    return {**base, **checkpoint['state_dict']}


def _at(about: Mapping[str, Any]) -> str:
    return f' ({about["location"]})' if about.get('location') else ''
