"""The frozen weights of given modules, from a state dict of any known layout."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from .attention import find_linear_weights
from .convert import convert, detect_layout
from .layouts import OWN


def select_weights(state_dict: Mapping[str, Tensor], modules: Sequence[str], where: str = 'checkpoint') -> dict:
    """Return ``{module: (out, in)}`` for modules that are named as in an OpenMMLab backbone.

    The names are looked up as they are, with or without ``backbone.``; where that fails, weights of a known layout are
    converted, and of others attention and feed-forward layers are recognised by their names.

    Raises:
        ValueError: The state dict lacks some of the modules; the first ones are named.
    """
    exact = _exact(state_dict, modules)
    found = detect_layout(state_dict) if exact is None else None
    if found is not None and found[0].name not in OWN:
        exact = _exact(convert(state_dict, where=where).backbone, modules)
    if exact is not None:
        return exact
    known, layouts = find_linear_weights(state_dict, ffn=True)
    missing = [module for module in modules if module not in known]
    if missing:
        raise ValueError(
            f'{where} lacks the weights of {len(missing)} of the {len(modules)} adapted modules, the first: '
            f'{missing[:3]}. Its layout: {sorted(layouts) or "unknown"}; its keys begin with {list(state_dict)[:3]}'
        )
    return {module: known[module] for module in modules}


def _exact(state_dict: Mapping[str, Tensor], modules: Sequence[str]) -> dict[str, Tensor] | None:
    for prefix in ('', 'backbone.'):
        exact = {module: state_dict.get(f'{prefix}{module}.weight') for module in modules}
        if all(weight is not None for weight in exact.values()):
            return exact
    return None


def count_parameters(state_dict: Mapping[str, Tensor]) -> int:
    """Return how many numbers the backbone in a state dict has: the floating-point tensors.

    Where keys begin with ``backbone.``, only these count, so that a classifier head does not.
    """
    own = {k: v for k, v in state_dict.items() if k.startswith('backbone.')} or state_dict
    return sum(tensor.numel() for tensor in own.values() if tensor.is_floating_point())
