"""Weights from anywhere in a model: what a converted checkpoint still needs once the model is known.

The checkpoint loader gives weights of a foreign layout under the names of mmpretrain's backbone. Here they are fitted
to one model: position embeddings are resized as the source library does, the ``backbone.`` of a whole classifier is
put before the names, and a backbone that would keep random weights is an error, where mmengine only logs it.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch.nn as nn
from mmengine.logging import print_log
from mmengine.model.weight_init import PretrainedInit, update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS
from mmengine.runner.checkpoint import _load_checkpoint_to_model
from torch import Tensor

from ..adapters import adapter_parameter_names
from ..io.checkpoint import load_checkpoint
from ..io.convert import CONVERTED, Converted, detect_layout, explain_unknown
from ..io.layouts import OWN
from ..io.nests import unwrap
from ..io.resize import Size, resize_bias_table, resize_positions
from .backbones.load_guard import DERIVED, LoadGuard

HEADS = ('head.layers.head', 'head.fc')
"""Classifiers of mmpretrain whose weights are those of a plain linear layer."""

HEAD_NAMES = ('head.', 'pre_logits.')

SHOWN = 5


def fit_weights(
    converted: Converted,
    model: nn.Module,
    where: str = 'the checkpoint',
    allow_missing: Sequence[str] = (),
    allow_unexpected: Sequence[str] = (),
    source_grid: Size | None = None,
) -> dict[str, Tensor]:
    """Return converted weights as a model takes them.

    Args:
        converted: From :func:`mmlora.io.convert.convert`.
        model: A backbone, or a whole model whose ``backbone`` takes the weights. Its classifier takes that of the file
            where both have the same shape. A model with a ``fit_converted`` says itself what goes where.
        where: Quoted in errors.
        allow_missing: Names that the file may lack; the model keeps what it has there. With or without ``backbone.``.
        allow_unexpected: Names that the file may have too many.
        source_grid: Height and width in patches of the file's position embedding, where it is not square.

    Returns:
        A state dict under the names of ``model``.

    Raises:
        ValueError: Weights of the backbone are missing, misshapen or have no place; both shapes are quoted.
    """
    if hasattr(model, 'fit_converted'):
        return model.fit_converted(converted, where, allow_missing, allow_unexpected, source_grid)
    inner = getattr(model, 'backbone', None)
    backbone, prefix = (inner, 'backbone.') if isinstance(inner, nn.Module) else (model, '')
    allow_missing, allow_unexpected = (
        {name.removeprefix('backbone.') for name in names} for names in (allow_missing, allow_unexpected)
    )
    source = f'{where} ({converted.layout.title})'
    converted.check(allow_unexpected, where)
    own = backbone.state_dict()
    weights = dict(converted.backbone)
    factors = adapter_parameter_names(backbone)
    base = [key for key in own if key not in factors and not key.endswith(DERIVED)]
    for key in base:
        if key not in weights and key in allow_missing:
            weights[key] = own[key].clone()
    missing = [key for key in base if key not in weights]
    if missing:
        raise ValueError(
            f'{source} lacks {len(missing)} of the {len(base)} weights of the backbone: {_first(missing)}. Is it of '
            'another architecture? Names that may keep their initial values go into allow_missing, beside the '
            'checkpoint in init_cfg or in StrictLoadHook'
        )
    _resize(weights, backbone, own, converted, source, source_grid)
    extra = [key for key in weights if key not in own and key not in allow_unexpected]
    if extra:
        raise ValueError(
            f'{source} holds {len(extra)} weights that the backbone has no place for: {_first(extra)}. Does the config '
            'describe this architecture? Names that may be left out go into allow_unexpected, beside the checkpoint in '
            'init_cfg or in StrictLoadHook'
        )
    _check_shapes(weights, own, backbone, converted, source)
    state = {prefix + key: value for key, value in weights.items() if key in own}
    if prefix:
        state |= _head(converted, model)
    head = [key for key in state if key not in {prefix + name for name in weights}]
    left = [f'{key} ({why})' for key, why in converted.dropped.items()]
    left += [key for key in converted.aside if not (head and key.startswith(HEAD_NAMES))]
    print_log(
        f'{where} is of the layout {converted.layout.title}: {len(weights)} weights taken for the backbone, '
        f'{len(head)} for the classifier; left out, as this model has no place for them: {_first(left) or "nothing"}',
        logger='current',
    )
    return state


def _resize(
    weights: dict[str, Tensor],
    backbone: nn.Module,
    own: dict[str, Tensor],
    converted: Converted,
    where: str,
    source_grid: Size | None,
) -> None:
    how = converted.layout.resize
    tokens = sum(name in weights for name in ('cls_token', 'dist_token'))
    own_tokens = sum(name in own for name in ('cls_token', 'dist_token'))
    if 'cls_token' not in own and 'pos_embed' in own:
        weights.pop('cls_token', None)
    for name, extra, own_extra in (('pos_embed', tokens, own_tokens), ('absolute_pos_embed', 0, 0)):
        if name in weights and name in own and weights[name].shape != own[name].shape:
            if weights[name].shape[-1] != own[name].shape[-1]:
                continue  # Another width, which is said with both shapes.
            size = tuple(backbone.patch_embed.init_out_size)
            try:
                weights[name] = resize_positions(weights[name], size, extra, own_extra, how, source_grid)
            except ValueError as error:
                raise ValueError(f'{where}: {error}') from error
            print_log(f'{name} of {where} is resized to {size[0]} x {size[1]} patches ({how})', logger='current')
    for name in weights:
        if name.endswith('relative_position_bias_table') and name in own and len(weights[name]) != len(own[name]):
            weights[name] = resize_bias_table(weights[name], len(own[name]), how)


def _check_shapes(
    weights: dict[str, Tensor], own: dict[str, Tensor], backbone: nn.Module, converted: Converted, where: str
) -> None:
    other = [
        f'{key} is {tuple(value.shape)}, the model has {tuple(own[key].shape)}'
        for key, value in weights.items()
        if key in own and value.shape != own[key].shape
    ]
    if other:
        raise ValueError(
            f'{where} holds {len(other)} weights of other shapes: {_first(other, "; ")}. It is another architecture'
        )
    heads = {module.num_heads for module in backbone.modules() if isinstance(getattr(module, 'num_heads', None), int)}
    if converted.num_heads is not None and heads and heads != {converted.num_heads}:
        raise ValueError(f'{where} has {converted.num_heads} attention heads, the model {sorted(heads)}')


def _head(converted: Converted, model: nn.Module) -> dict[str, Tensor]:
    """Return the classifier of the file under the names of the model's, where both are the same linear layers."""
    own = model.state_dict()
    name = next((name for name in HEADS if f'{name}.weight' in own), None)
    names = {f'head.{end}': f'{name}.{end}' for end in ('weight', 'bias')}
    names |= {f'pre_logits.{end}': f'head.layers.pre_logits.{end}' for end in ('weight', 'bias')}
    given = {key for key in converted.aside if key.startswith(HEAD_NAMES)}
    taken = {names[key]: converted.aside[key] for key in given if key in names}
    wanted = {key for key in own if key.startswith('head.')}
    fits = set(taken) == wanted and all(taken[key].shape == own[key].shape for key in wanted)
    return taken if fits and len(taken) == len(given) else {}


def prefix_backbone(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Put ``backbone.`` before the names of a bare backbone of mmpretrain where a model has its backbone inside."""
    found = detect_layout(state)
    bare = found is not None and found[0].name in OWN and not found[1]
    if bare and isinstance(getattr(model, 'backbone', None), nn.Module):
        return {f'backbone.{key}': value for key, value in state.items()}
    return state


class PretrainedWeights(PretrainedInit):
    """``init_cfg=dict(type='Pretrained', checkpoint=...)`` for weights of any layout; stands in for mmengine's own.

    Args:
        checkpoint: Anything that the checkpoint loader reads.
        prefix: Takes the part of a checkpoint of mmpretrain that begins with it. Weights of another layout are those of
            a backbone already, so ``'backbone.'`` changes nothing for them and any other is refused.
        map_location: Where the tensors are read to.
        allow_missing: Names that the file may lack, of whatever layout.
        allow_unexpected: For weights of another layout: names that the file may have too many.
        source_grid: For weights of another layout: height and width in patches of a position embedding that is not
            square.
    """

    def __init__(
        self,
        checkpoint: str,
        prefix: str | None = None,
        map_location: Any = 'cpu',
        allow_missing: Sequence[str] = (),
        allow_unexpected: Sequence[str] = (),
        source_grid: Size | None = None,
    ) -> None:
        super().__init__(checkpoint, prefix, map_location)
        for name, value in dict(allow_missing=allow_missing, allow_unexpected=allow_unexpected).items():
            if isinstance(value, str):
                raise TypeError(f'{name} is a list of names, got the text {value!r}: write [{value!r}]')
        if source_grid is not None and (len(source_grid) != 2 or min(source_grid) < 1):
            raise ValueError(f'source_grid is a height and a width in patches, got {source_grid!r}')
        self.allow_missing, self.allow_unexpected, self.source_grid = allow_missing, allow_unexpected, source_grid

    def __call__(self, module: nn.Module) -> None:
        """Load the weights into a module.

        Raises:
            ValueError: They are of a known layout, mmpretrain's ViT and Swin among them, and weights of the backbone
                are missing or misshapen; or of no known one, and nothing of them fits; or there are none under the
                prefix.
        """
        print_log(f'load {self.prefix or "model"} from: {self.checkpoint}', logger='current')
        checkpoint = load_checkpoint(self.checkpoint, self.map_location)
        converted = checkpoint.get(CONVERTED)
        if converted is not None:
            if self.prefix not in (None, 'backbone', 'backbone.'):
                raise ValueError(
                    f'prefix={self.prefix!r}: {self.checkpoint} is of the layout {converted.layout.title}, of which '
                    'the backbone alone is taken. Leave the prefix out'
                )
            state = fit_weights(
                converted, module, str(self.checkpoint), self.allow_missing, self.allow_unexpected, self.source_grid
            )
        else:
            state = self._own(checkpoint, module)
        inner = getattr(module, 'backbone', None)
        backbone, prefix = (inner, 'backbone.') if isinstance(inner, nn.Module) else (module, '')
        found = detect_layout(state)
        guards = []
        if found is not None and found[0].name in OWN:
            kept = {name.removeprefix('backbone.') for name in self.allow_missing} & set(backbone.state_dict())
            state = {prefix + name: backbone.state_dict()[name].clone() for name in kept} | state
            guards.append(backbone.register_load_state_dict_pre_hook(LoadGuard()))
        try:
            _load_checkpoint_to_model(module, state, strict=False, logger='current')
        finally:
            for guard in guards:
                guard.remove()
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=self._get_init_info())

    def _own(self, checkpoint: dict[str, Any], module: nn.Module) -> dict[str, Tensor]:
        state = unwrap(checkpoint, str(self.checkpoint))
        if self.prefix is not None:
            prefix = self.prefix.rstrip('.') + '.'
            part = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
            if not part:
                raise ValueError(f'prefix={self.prefix!r}: no key of {self.checkpoint} begins with it, they begin with '
                                 f'{_first(list(map(str, state)))}. Weights of a bare backbone need no prefix')
            return part
        own = set(module.state_dict())
        if not adapter_parameter_names(module) and not own & set(state):
            whole = any(str(key).startswith('backbone.') for key in state)
            raise ValueError(
                f'nothing of {self.checkpoint} fits {type(module).__name__}. '
                + ("It holds a whole model, of which init_cfg takes the backbone with prefix='backbone.'" if whole
                   else explain_unknown(map(str, state)))
            )
        return state


def _first(names: Iterable[str], between: str = ', ') -> str:
    names = list(names)
    return between.join(names[:SHOWN]) + (' ...' if len(names) > SHOWN else '')


# In place of mmengine's own, so that every config that names pre-trained weights takes those of any layout.
WEIGHT_INITIALIZERS.register_module(name='Pretrained', module=PretrainedWeights, force=True)
