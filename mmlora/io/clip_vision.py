"""Further arguments of CLIP's vision tower as plain data: what a file may say of them, and what others can hold.

They are those of mmpretrain's ``VisionTransformer`` that do not follow from the sizes. A file may ask for values of
known arguments and nothing else, since a name in a config could build anything.
"""

from collections.abc import Mapping
from typing import Any

ARGUMENTS: Mapping[str, Any] = {
    'in_channels': 3, 'out_indices': -1, 'qkv_bias': True, 'final_norm': True, 'out_type': 'cls_token',
    'with_cls_token': True, 'frozen_stages': -1, 'interpolate_mode': 'bicubic', 'layer_scale_init_value': 0.0,
    'drop_rate': 0.0, 'drop_path_rate': 0.0,
}  # fmt: skip
"""Arguments that a file may hold besides ``patch_cfg``, and their defaults."""

WINDOW = ('kernel_size', 'stride', 'padding', 'dilation', 'bias')
"""Fields of ``patch_cfg`` that a file may hold: of the convolution that cuts an image into patches."""

LEARNING = ('drop_rate', 'drop_path_rate', 'frozen_stages', 'init_cfg')
"""Arguments that change how a tower learns, and not what it computes with the same weights."""

_PADDING = ('corner', 'same')
_ELSEWHERE = ('frozen_stages', 'interpolate_mode', 'drop_rate', 'drop_path_rate')


def plain_vision(vision: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the arguments as plain data, without ``init_cfg``: where weights come from is said elsewhere.

    What is no plain data becomes a text that names it, which :func:`why_no_vision` refuses where it is known.
    """
    return {key: _plain(value) for key, value in sorted((vision or {}).items()) if key != 'init_cfg'}


def computed(vision: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that change what a tower computes and are not at their defaults."""
    return {key: value for key, value in plain_vision(vision).items()
            if key not in LEARNING and not (key in ARGUMENTS and value == ARGUMENTS[key]) and value != {}}


def why_no_vision(vision: Mapping[str, Any] | None) -> str | None:
    """Say why a file cannot hold these arguments, or None where it can."""
    for key, value in (vision or {}).items():
        if key == 'patch_cfg' and isinstance(value, Mapping):
            strange = {name: each for name, each in value.items()
                       if name not in WINDOW or not (_is_number(each) or (name == 'padding' and each in _PADDING))}
            if strange:
                return (f'vision has patch_cfg={strange!r}, and a file can hold numbers, or lists of them, for '
                        f'{list(WINDOW)}, and {list(_PADDING)} for padding')
        elif key != 'init_cfg' and not (key in ARGUMENTS and (_is_number(value) or isinstance(value, str))):
            return (f'vision has {key}={value!r}, and a file can hold plain values of '
                    f'{sorted([*ARGUMENTS, "patch_cfg"])}')
    return None


def why_not_elsewhere(vision: Mapping[str, Any] | None, patch_size: int) -> str | None:
    """Say why the CLIP of OpenAI, open_clip or transformers cannot have this vision tower, or None where it can.

    Args:
        vision: The arguments.
        patch_size: That of the arch.
    """
    vision = plain_vision(vision)
    window = dict(vision.pop('patch_cfg', None) or {})
    own = dict(kernel_size=patch_size, stride=patch_size, padding=0, dilation=1, bias=False)
    if window.get('padding') in _PADDING and window.get('kernel_size', patch_size) in (patch_size, [patch_size] * 2):
        del window['padding']  # They add nothing to windows that fit into the image.
    other = {key: value for key, value in window.items() if key not in own or value not in (own[key], [own[key]] * 2)}
    if other:
        return (f'its vision tower cuts patches with {other}, where the CLIP of OpenAI, open_clip and transformers has '
                f'windows of patch_size={patch_size} that touch each other')
    more = {key: value for key, value in computed(vision).items() if key not in _ELSEWHERE}
    if more:
        return f'its vision tower has {more}, which the CLIP of OpenAI, open_clip and transformers has not'
    return None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in sorted(value.items())}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return f'<{getattr(value, "__qualname__", type(value).__qualname__)}>'


def _is_number(value: Any) -> bool:
    return isinstance(value, (bool, int, float)) or (
        isinstance(value, (list, tuple)) and all(isinstance(item, (int, float)) for item in value)
    )
