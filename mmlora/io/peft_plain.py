"""Whether a configuration of Hugging Face peft is of a LoRA: B A beside weights that are as they were.

peft puts many methods under ``LORA`` and tells them apart by fields of ``adapter_config.json``. Whoever reads a file
without looking at them computes something else than peft.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

PREFIX = 'base_model.model.'
"""What the names of tensors in a file of peft begin with."""

_QUOTED = 120
_LONGEST = 500  # Characters of a pattern or of the name of a layer.
_REPEATS = 2

MERGE = 'merge it into the weights in peft (merge_and_unload), and use those'

OTHER = {
    'use_dora': 'DoRA', 'lora_bias': 'a bias on B', 'modules_to_save': 'other modules that learned',
    'use_qalora': 'QALoRA', 'layer_replication': 'layers that occur several times',
    'trainable_token_indices': 'tokens that learned', 'target_parameters': 'parameters that are no layers',
    'use_bdlora': 'BD-LoRA', 'megatron_config': 'Megatron', 'fan_in_fan_out': 'transposed weights',
    'alora_invocation_tokens': 'activated LoRA', 'arrow_config': 'Arrow', 'kasa_config': 'KaSA',
    'velora_config': 'VeLoRA', 'monteclora_config': 'MonteCLoRA',
}  # fmt: skip
"""Fields of peft that mean something else than a plain LoRA, and what."""

HARMLESS = frozenset({
    'alpha_pattern', 'auto_mapping', 'base_model_name_or_path', 'bias', 'corda_config', 'ensure_weight_tying',
    'eva_config', 'exclude_modules', 'inference_mode', 'init_lora_weights', 'layers_pattern', 'layers_to_transform',
    'loftq_config', 'lora_alpha', 'lora_dropout', 'lora_ga_config', 'megatron_core', 'peft_type', 'peft_version',
    'qalora_group_size', 'r', 'rank_pattern', 'revision', 'runtime_config', 'target_modules', 'task_type', 'use_rslora',
})  # fmt: skip
"""Fields of peft 0.21 that either are read here, or say how factors came about and not what is computed with them."""

PLAIN_INITS = (True, False, None, 'gaussian', 'eva', 'orthogonal', 'mica')
"""``init_lora_weights`` that leave the base model as it is. PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA subtract from it."""


def check_plain(
    config: Mapping[str, Any], where: str, reader: str = 'a plain LoRA', more: Mapping[str, str] | None = None
) -> None:
    """Check that a configuration is of a plain LoRA.

    Args:
        config: The content of ``adapter_config.json``.
        where: Quoted in errors.
        reader: Whoever wants to read it, for messages.
        more: Further fields that it cannot have, and what they mean.

    Raises:
        ValueError: It is none; the field is quoted.
    """
    if config.get('peft_type') != 'LORA':
        raise ValueError(f'{where} has peft_type={config.get("peft_type")!r}, where {reader} needs LORA')
    for field, meaning in {**OTHER, **(more or {})}.items():
        if config.get(field):
            raise ValueError(f'{where} has {field}={_short(config[field])} ({meaning}), which {reader} does not have: '
                             f'{MERGE}')
    if config.get('bias', 'none') != 'none':
        raise ValueError(f'{where} has bias={_short(config["bias"])}, biases that learned, which {reader} does not '
                         f'have: {MERGE}')
    unknown = sorted(field for field in set(config) - HARMLESS - set(OTHER) - set(more or ()) if config[field])
    if unknown:  # Of a later peft, say: it may mean another computation.
        raise ValueError(f'{where} has {unknown[0][:_QUOTED]}={_short(config[unknown[0]])}, which is not known here: '
                         f'{MERGE}')
    init = config.get('init_lora_weights')
    if (init.lower() if isinstance(init, str) else init) not in PLAIN_INITS:
        raise ValueError(
            f'{where} has init_lora_weights={_short(init)}, which changes the base weights, so that the factors are '
            "none for the model as it was: let peft's save_pretrained convert it, with "
            'path_initial_model_for_weight_conversion'
        )


def _short(value: Any) -> str:
    return repr(value)[:_QUOTED]


def value_of(config: Mapping[str, Any], field: str, pattern: str, site: str, where: str) -> Any:
    """Return what a configuration says of a layer: the value of the first pattern that fits its name, else the field.

    Args:
        config: The content of ``adapter_config.json``.
        field: Such as ``'r'``.
        pattern: The field with its exceptions, such as ``'rank_pattern'``: a value for each regular expression.
        site: Name of the layer.
        where: Quoted in errors.

    Raises:
        ValueError: The exceptions are no object, or one is no regular expression of the simple kind that peft's own
            files have. Others can take longer than any program lasts.
    """
    exceptions = config.get(pattern) or {}
    if not isinstance(exceptions, Mapping):
        raise ValueError(f'{where} has {pattern}={str(exceptions)[:_QUOTED]!r}, where an object belongs')
    if len(site) > _LONGEST:
        raise ValueError(f'{where} names a layer with {len(site)} characters: {site[:_QUOTED]!r}...')
    for key, own in exceptions.items():
        try:
            check_simple(key)
            found = re.match(rf'(.*\.)?({key})$', site)
        except (ValueError, re.error, RecursionError, OverflowError) as error:
            raise ValueError(f'{where} has the pattern {key[:_QUOTED]!r} in {pattern}, which cannot be used ({error}): '
                             'name the layers one by one') from error
        if found:
            return own
    return config.get(field)


def check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Check the factors of a file.

    Raises:
        ValueError: One holds a value that is not finite; it is named.
    """
    for name, value in tensors.items():
        if not value.isfinite().all():
            raise ValueError(f'{where}: {name} holds values that are not finite, as of a training that diverged')


def check_simple(pattern: str, repeats: int = _REPEATS) -> None:
    """Refuse a pattern that can make the search take exponential time: repeated groups, and many repeats.

    Raises:
        ValueError: It is such a pattern, or a very long one.
    """
    bare = re.sub(r'\\.|\[[^\]]*\]', '', pattern, flags=re.DOTALL)
    if len(pattern) > _LONGEST or re.search(r'\)[*+?{]', bare) or len(re.findall(r'[*+{]', bare)) > repeats:
        raise ValueError(f'it repeats a group, has more than {repeats} repeats or {_LONGEST} characters')
