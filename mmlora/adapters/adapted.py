"""What every adapted layer shares, linear or not: learned tensors beside frozen ones, and exact merging."""

from typing import Any, ClassVar

import torch
import torch.nn as nn
from torch import Tensor


class AdaptedLayer(nn.Module):
    """A layer whose frozen ``weight`` and ``bias`` carry a learned change.

    Goes before the layer's class among the bases. The frozen tensors keep their names, and the learned tensors are bare
    Parameters whose names begin with :attr:`prefix`.

    ``train()``, ``eval()`` and ``to()`` never merge. :meth:`merge` puts a changed weight and bias in the place of the
    frozen ones and keeps these, so that a merged layer holds one more tensor of the size of W; :meth:`unmerge` puts
    them back, bit for bit. A change of the bias of a layer that has none gives it one while merged. While merged,
    ``state_dict()`` still gives the frozen and the learned tensors, and layers that share the frozen ones keep them.
    """

    prefix: ClassVar[str]
    shifts: bool = False
    """Whether the change shifts the output, so that merging gives a bias to a layer that has none."""
    _adds_bias = False

    def _prepare(self, lora_dtype: torch.dtype | None = None) -> None:
        """Freeze the layer and choose the type of the learned tensors; at the end of the constructor of the layer."""
        self._freeze_base()
        self.lora_dtype = lora_dtype or learned_dtype(self.weight)
        self.register_buffer('_pristine', None, persistent=False)
        self.register_buffer('_pristine_bias', None, persistent=False)
        self._set_aside: dict[str, nn.Parameter] = {}

    def _freeze_base(self) -> None:
        self.weight.requires_grad_(False)
        if self.bias is not None:
            self.bias.requires_grad_(False)

    def _take_over(self, layer: nn.Module) -> 'AdaptedLayer':
        """Take over the Parameters of a layer, uncopied, and draw the learned tensors on its device."""
        self.weight, self.bias = layer.weight, layer.bias
        for name, parameter in self.adapter_parameters().items():
            setattr(self, name, nn.Parameter(torch.empty_like(parameter, device=layer.weight.device)))
        self._freeze_base()
        self.reset_adapter()
        return self.train(layer.training)

    def adapter_parameters(self) -> dict[str, nn.Parameter]:
        """Return the learned tensors by their names within this layer."""
        return {n: p for n, p in self.named_parameters(recurse=False) if n.startswith(self.prefix)}

    def adapter_tensors(self) -> dict[str, Tensor]:
        """Return what the adapter adds to the state by name: the learned tensors, and buffers that they start from."""
        held = self._non_persistent_buffers_set
        buffers = {n: b for n, b in self.named_buffers(recurse=False) if n.startswith(self.prefix) and n not in held}
        return {**self.adapter_parameters(), **buffers}

    def reset_adapter(self) -> None:
        """Draw the learned tensors anew."""
        raise NotImplementedError

    def changed(self) -> tuple[Tensor, Tensor | None]:
        """Return the weight and the bias that a plain layer needs to compute the same, in the wider of both types."""
        raise NotImplementedError

    def plain_tensors(self) -> dict[str, Tensor]:
        """Return the changed tensors by the names that they have in a plain layer, in the type of the frozen weight."""
        dtype = self.weight.dtype
        named = zip(('weight', 'bias'), self.changed(), strict=True)
        return {name: value.to(dtype, copy=True) for name, value in named if value is not None}

    def to_plain(self) -> nn.Module:
        """Return a plain layer that computes the same, in the type of the frozen weight."""
        raise NotImplementedError

    @property
    def merged(self) -> bool:
        """Whether ``weight`` and ``bias`` hold the change at present."""
        return self._pristine is not None

    @property
    def frozen_weight(self) -> Tensor:
        """W, merged or not."""
        return self.weight if self._pristine is None else self._pristine

    @property
    def frozen_bias(self) -> Tensor | None:
        """The frozen bias, merged or not."""
        if self._adds_bias:
            return None
        return self.bias if self._pristine_bias is None else self._pristine_bias

    @torch.no_grad()
    def merge(self) -> 'AdaptedLayer':
        """Put a changed ``weight`` and ``bias`` in the place of the frozen ones; does nothing when merged already.

        Raises:
            ValueError: The change is not finite.
        """
        if self.merged:
            return self
        weight, bias = self.finite_changed()
        self._pristine = set_aside(self, 'weight', weight, self._set_aside)
        if bias is None or bias is self.bias:
            return self
        if self.bias is None:
            self._adds_bias = True
            self.bias = nn.Parameter(bias.to(self.weight.dtype, copy=True), requires_grad=False)
        else:
            self._pristine_bias = set_aside(self, 'bias', bias, self._set_aside)
        return self

    @torch.no_grad()
    def unmerge(self) -> 'AdaptedLayer':
        """Restore the frozen tensors bit for bit; does nothing when not merged."""
        if not self.merged:
            return self
        put_back(self, 'weight', self._pristine, self._set_aside)
        if self._adds_bias:
            self.bias = None
        elif self._pristine_bias is not None:
            put_back(self, 'bias', self._pristine_bias, self._set_aside)
        self._pristine = self._pristine_bias = None
        self._adds_bias = False
        return self

    @torch.no_grad()
    def finite_changed(self) -> tuple[Tensor, Tensor | None]:
        """Return :meth:`changed`, without gradients.

        Raises:
            ValueError: The change is not finite.
        """
        weight, bias = self.changed()
        if not torch.isfinite(weight).all() or (bias is not None and not torch.isfinite(bias).all()):
            raise ValueError('the change holds values that are not finite; merging it would spoil the weight')
        return weight, bias

    def _filled(self, plain: nn.Module) -> nn.Module:
        """Give a plain layer, built on the meta device, the changed tensors."""
        weight, bias = self.finite_changed()
        dtype = self.weight.dtype
        plain.weight = nn.Parameter(weight.to(dtype, copy=True), requires_grad=False)
        plain.bias = None if bias is None else nn.Parameter(bias.to(dtype, copy=True), requires_grad=False)
        return plain.train(self.training)

    def _refuse_if_trained(self) -> None:
        if self.training and torch.is_grad_enabled():
            raise RuntimeError('a merged layer cannot be trained, its factors get no gradient: call unmerge() first')

    def _refuse_if_merged(self, what: str) -> None:
        if self.merged:
            raise ValueError(f'{what} on a merged layer would leave a stale weight: call unmerge() first')

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.merged:
            destination[prefix + 'weight'] = self._pristine
        if self._adds_bias:
            del destination[prefix + 'bias']
        elif self._pristine_bias is not None:
            destination[prefix + 'bias'] = self._pristine_bias

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._refuse_if_merged('load_state_dict')
        super()._load_from_state_dict(*args, **kwargs)


def set_aside(layer: nn.Module, name: str, value: Tensor, kept: dict[str, nn.Parameter]) -> Tensor:
    """Put a value in the place of a Parameter of a layer, and return the values of that Parameter, uncopied.

    Another layer may share the Parameter, whose values are therefore left alone.

    Args:
        layer: A model.
        name: Of the Parameter in it.
        value: Copied, in the type of the Parameter.
        kept: Takes the Parameter by this name, for :func:`put_back`.
    """
    kept[name] = layer.get_parameter(name)
    owner, _, own = name.rpartition('.')
    new = nn.Parameter(value.to(kept[name].dtype, copy=True), kept[name].requires_grad)
    setattr(layer.get_submodule(owner), own, new)
    return kept[name].detach()


def put_back(layer: nn.Module, name: str, values: Tensor, kept: dict[str, nn.Parameter]) -> None:
    """Put a Parameter back, the very object, for optimizers that hold it.

    Args:
        layer: As of :func:`set_aside`, like ``name`` and ``kept``.
        name: Of the Parameter.
        values: Those that it has, which may have been moved or copied with the layer since.
        kept: Gives the Parameter.
    """
    parameter = kept.pop(name)
    parameter.data = values
    owner, _, own = name.rpartition('.')
    setattr(layer.get_submodule(owner), own, parameter)


def learned_dtype(weight: Tensor) -> torch.dtype:
    """Return the type of learned tensors beside a frozen weight: float32 over half precision, else the same type."""
    return torch.float32 if weight.dtype in (torch.float16, torch.bfloat16) else weight.dtype


def adapter_modules(model: nn.Module) -> dict[str, AdaptedLayer]:
    """Return all layers of a model with learned tensors beside frozen ones, of whatever kind, by name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, AdaptedLayer)}


def replace_module(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put a module in the place of another under every name that the model holds it by."""
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if module is old and name:
            parent, _, child = name.rpartition('.')
            setattr(model.get_submodule(parent), child, new)
