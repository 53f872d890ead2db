"""A prior of images from the statistics that BatchNorm layers remember.

Yin et al., "Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion", CVPR 2020, arXiv 1912.08795, as
LoRA-Recycle (Hu et al., CVPR 2025) uses it in eq. 2: a batch of images is likely where the inputs of every BatchNorm
layer of a trained network have the mean and the variance that the layer has seen in training::

    R = sum over layers of  || running_var - var ||_2 + || running_mean - mean ||_2

with the biased variance over images and positions. Norms are not squared and layers not averaged, as published. The
network need not be the one that is inverted; a published ViT has no BatchNorm, so one beside it is asked.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn as nn
from mmpretrain.registry import MODELS
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from ..io.weights import load_state_dict

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of pixels in [0, 1] with which torchvision's networks were trained."""


@dataclass(frozen=True)
class PriorNetwork:
    """A network with BatchNorm layers that comes with what it was trained on.

    Attributes:
        network: Config of the backbone.
        mean: Of a pixel in [0, 1], by channel.
        std: Standard deviation of the same.
        checkpoint: Its weights; None where the user has to bring them.
        image_size: Side of the images that it knows, in pixels; None for any.
        relative: As in :class:`BatchNormPrior`.
    """

    network: Mapping[str, Any] = field(repr=False)
    mean: Sequence[float]
    std: Sequence[float]
    checkpoint: str | None = None
    image_size: int | None = None
    relative: bool = False


PRIORS: dict[str, PriorNetwork] = {
    'glyphs': PriorNetwork(
        dict(
            type='mmpretrain.ResNet_CIFAR',
            depth=18,
            num_stages=3,
            strides=(2, 2, 2),
            dilations=(1, 1, 1),
            out_indices=(2,),
            stem_channels=12,
            base_channels=12,
        ),
        mean=(54 / 255,) * 3,
        std=(72 / 255,) * 3,
        checkpoint='mmlora://resnet-micro_glyphs',
        image_size=32,
        relative=True,
    ),
    'resnet50': PriorNetwork(dict(type='mmpretrain.ResNet', depth=50), *IMAGENET),
}
"""Networks by name. ``resnet50`` has the layers of torchvision's, the weights of which are the published choice."""


def batch_norm_distance(x: Tensor, layer: _BatchNorm, relative: bool = False) -> Tensor:
    """Return how far the input of a BatchNorm layer is from what the layer remembers, a scalar.

    Args:
        x: ``(B, C, ...)``.
        layer: Has ``running_mean`` and ``running_var`` ``(C,)``.
        relative: Whether each channel is measured in the units of its remembered standard deviation.
    """
    axes = [axis for axis in range(x.ndim) if axis != 1]
    var, mean = torch.var_mean(x, dim=axes, unbiased=False)
    var, mean = layer.running_var - var, layer.running_mean - mean
    if relative:
        remembered = layer.running_var + layer.eps
        var, mean = var / remembered, mean / remembered.sqrt()
    return var.norm() + mean.norm()


class BatchNormPrior(nn.Module):
    """How unlikely a batch of images is by the BatchNorm layers of a network.

    The network stays in evaluation mode, and nothing of it learns.

    Args:
        network: Has BatchNorm layers with running statistics.
        mean: Of the pixels in [0, 1] that the network was trained on, by channel. None, with ``std``, takes images as
            they come.
        std: Standard deviation of the same.
        image_size: Side of the images that the network knows, in pixels; None for any.
        relative: Measure every channel in the units of its remembered standard deviation. The scale of what enters a
            BatchNorm layer is arbitrary, and so is that of the published sum, which a network with large activations
            would let outweigh all other terms. False is as published.

    Raises:
        ValueError: The network has no BatchNorm layer with running statistics, or only one of mean and std is given.
    """

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        image_size: int | None = None,
        relative: bool = False,
    ) -> None:
        super().__init__()
        self.layers = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
        if not self.layers:
            raise ValueError(
                f'this {type(network).__name__} has no BatchNorm layer with running statistics, so it knows no '
                'likely images: choose a network such as ResNet, or no prior'
            )
        if (mean is None) != (std is None):
            raise ValueError(f'give mean and std together: got mean={mean}, std={std}')
        self.network = network.requires_grad_(False)
        self.mean, self.std = (None, None) if mean is None else (tuple(mean), tuple(std))
        self.image_size = image_size
        self.relative = relative
        self.train(False)

    def describe(self) -> dict[str, Any]:
        """Return what the prior depends on, as plain data: two priors of the same description are the same."""
        digest = hashlib.sha256()
        for name, value in sorted(self.network.state_dict().items()):
            digest.update(name.encode() + value.detach().cpu().float().contiguous().numpy().tobytes())
        own = dict(mean=self.mean and list(self.mean), std=self.std and list(self.std), relative=self.relative)
        return dict(network=type(self.network).__name__, sha256=digest.hexdigest(), **own)

    def train(self, mode: bool = True) -> nn.Module:
        """Keep the evaluation mode, whatever is asked for, and return self."""
        super().train(False)
        return self

    def forward(self, x: Tensor, mean: Sequence[float] | None = None, std: Sequence[float] | None = None) -> Tensor:
        """Return the prior of a batch, a scalar in which smaller means likelier.

        Args:
            x: Normalised images ``(B, C, H, W)``.
            mean: Of the pixels in [0, 1] by which they are normalised, if that differs from the network's own.
            std: Standard deviation of the same.

        Raises:
            ValueError: The images have a size that the network does not know.
        """
        if self.image_size is not None and tuple(x.shape[-2:]) != (self.image_size, self.image_size):
            raise ValueError(
                f'the prior knows images of {self.image_size} x {self.image_size} pixels, but these have '
                f'{x.shape[-2]} x {x.shape[-1]}: choose another prior, such as resnet50 with its weights, or none'
            )
        if self.mean is not None and mean is not None:
            x = renormalise(x, (mean, std), (self.mean, self.std))
        terms: list[Tensor] = []

        def measure(layer: nn.Module, args: tuple[Tensor]) -> None:
            terms.append(batch_norm_distance(args[0], layer, self.relative))

        handles = [layer.register_forward_pre_hook(measure) for layer in self.layers]
        try:
            self.network(x)
        finally:
            for handle in handles:
                handle.remove()
        return torch.stack(terms).sum()


def renormalise(x: Tensor, old: tuple[Sequence, Sequence], new: tuple[Sequence, Sequence]) -> Tensor:
    """Return images ``(B, C, H, W)`` that were normalised by one mean and standard deviation, normalised by another.

    Args:
        x: The images; they are returned as they are where both are the same.
        old: Mean and standard deviation by channel.
        new: The same.
    """
    if [tuple(part) for part in old] == [tuple(part) for part in new]:
        return x
    (mean, std), (own_mean, own_std) = ([x.new_tensor(part)[:, None, None] for part in pair] for pair in (old, new))
    return (x * std + mean - own_mean) / own_std


def build_prior(name: str | None = 'glyphs', checkpoint: str | None = None) -> BatchNormPrior | None:
    """Return a prior by name.

    Args:
        name: A key of :data:`PRIORS`; ``'none'`` or None for no prior.
        checkpoint: Weights of the network: a path, or a name such as ``'torchvision://resnet50'``. By default those
            that the prior comes with.

    Raises:
        ValueError: The name is unknown, the prior brings no weights and none are given, or they do not fit.
        FileNotFoundError: There is no such checkpoint.
    """
    if name is None or name == 'none':
        if checkpoint is not None:
            raise ValueError(f'no prior takes the weights {checkpoint!r}: name one of {", ".join(PRIORS)}')
        return None
    if name not in PRIORS:
        raise ValueError(f'unknown prior {name!r}: choose from {", ".join(PRIORS)} or none')
    known = PRIORS[name]
    path = checkpoint or known.checkpoint
    if path is None:
        raise ValueError(
            f'the prior {name!r} comes without weights: give the path of a checkpoint, such as the IMAGENET1K_V1 '
            'weights of torchvision'
        )
    network = MODELS.build(dict(known.network))
    state = load_state_dict(path)
    own = {key.removeprefix('backbone.'): value for key, value in state.items()}
    missing = [key for key, value in network.state_dict().items() if key not in own and value.ndim]
    shapes = {key: tuple(v.shape) for key, v in network.state_dict().items() if key in own}
    wrong = [key for key, shape in shapes.items() if tuple(own[key].shape) != shape]
    if missing or wrong:
        raise ValueError(
            f'{path} does not hold the network of the prior {name!r}: {len(missing)} tensors are missing and '
            f'{len(wrong)} have another shape, such as {(missing + wrong)[0]!r}'
        )
    network.load_state_dict({key: own[key] for key in shapes}, strict=False)
    return BatchNormPrior(network, known.mean, known.std, known.image_size, known.relative)
