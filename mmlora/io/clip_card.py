"""The model card of an adapter folder, made from its record: nothing is left to be filled in."""

import json
from collections.abc import Mapping
from typing import Any

from .adapter_card import SHOWN, command_section, protocol_rows, result_section, shown_path
from .clip_vision import computed, why_not_elsewhere


def model_card(record: Mapping[str, Any], base_name: str | None = None) -> str:
    """Return the text of ``README.md``.

    Args:
        record: The content of ``mmlora.json``.
        base_name: Name of the base model on the Hugging Face hub, or None.
    """
    model, base, run = record['model'], record['base'], record.get('protocol') or {}
    dropout = model.get('dropout')
    vision = computed(model.get('vision') or {})
    rows = {
        **protocol_rows(run),
        'config': run.get('config'),
        'imported from': record.get('imported_from'),
        'backbone': model.get('backbone') or ', '.join(f'{key} {value}' for key, value in model['arch'].items()),
        'vision tower': ', '.join(f'{key} {value}' for key, value in vision.items()) or None,
        'adapted': f'{"".join(model["params"])} of {_layers(model)}',
        'rank, alpha, scaling': f'{model["rank"]}, {model["alpha"]:g}, {model["scaling"]} = {model["factor"]:g}',
        'dropout in training': None if dropout is None else f'{dropout:g}',
        'templates': ', '.join(map(repr, model['templates'])),
        'logit scale': record.get('logit_scale_value', model['logit_scale']),
        'base weights': shown_path(base['location']) if base.get('location') else None,
        'sha256 of the base weights': base.get('sha256'),
        'mmlora': record.get('version'),
    }
    foreign = why_not_elsewhere(model.get('vision'), model['arch']['patch_size'])
    front = {'library_name': 'mmlora' if foreign else 'peft', 'pipeline_tag': 'zero-shot-image-classification',
             'tags': ['lora', 'clip', 'mmlora']} | ({'base_model': base_name} if base_name else {})
    classes = model['classes']
    listed = 'The classes come from the data, or are given when the folder is loaded.'
    if classes:
        more = f' ... {len(classes)} in all' if len(classes) > SHOWN else ''
        listed = f'{", ".join(classes[:SHOWN])}{more}.'
    learned = '\npeft does not load the logit scale, which was learned too.\n' if 'logit_scale_value' in record else ''
    lines = [
        '---', *(f'{key}: {json.dumps(value)}' for key, value in front.items()), '---', '',
        f'# CLIP with LoRA{" for " + str(run["dataset_name"]) if run.get("dataset_name") else ""}', '',
        '| | |', '|---|---|', *(f'| {key} | {value} |' for key, value in rows.items() if value is not None), '',
        *(result_section(record['results']) if record.get('results') else []),
        '## Classes', '', listed, '',
        '## Use', '', '```python', 'import mmlora.clip', '',
        "model = mmlora.clip.load('path of this folder')" if base.get('location') else
        "model = mmlora.clip.load('path of this folder', weights='weights of the CLIP')",
        "print(model.predict('image.jpg'))", '```', '',
        f'peft cannot use it: {foreign}.' if foreign else
        "`peft.PeftModel.from_pretrained(clip, folder)` loads it onto transformers' `CLIPModel` with the same base "
        'weights.', '' if foreign else learned, *command_section(record.get('commands')),
    ]  # fmt: skip
    return '\n'.join(lines).rstrip('\n') + '\n'


def _layers(model: Mapping[str, Any]) -> str:
    return '; '.join(f'{tower} blocks {", ".join(map(str, blocks))}' for tower, blocks in model['layers'].items())
