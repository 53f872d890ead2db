"""Conditional variational autoencoders of LoRAs: as ICM-LoRA publishes them, and with a prior that sees the task."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from ...registry import MODELS, register
from .conv_vae import CHANNELS, ConvVAE, draw_latent, kl_divergence, reconstruction_error
from .generator import LoRAGenerator
from .sizes import check_sizes


@register(MODELS)
class ConvCVAE(LoRAGenerator):
    """The conditional autoencoder of ICM-LoRA (IJCAI 2025, arXiv 2501.17635); see :mod:`.conv_vae`.

    A LoRA is generated from z = 0, others from z drawn from N(0, I).

    Args:
        latent_dim: D.
        kld_weight: Weight of the divergence from the prior.
        channels: Of the stages, each of which halves the length; 12 published ones by default.
        norm: ``'batch'``, as published, or ``'group'``.
        loss_padding: Whether the zeros behind the vector count in the loss, as published.
        **kwargs: Of :class:`LoRAGenerator`.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(
        self,
        latent_dim: int = 256,
        kld_weight: float = 0.005,
        channels: Sequence[int] = CHANNELS,
        norm: str = 'batch',
        loss_padding: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if isinstance(kld_weight, bool) or not isinstance(kld_weight, int | float) or not kld_weight >= 0:
            raise ValueError(f'kld_weight must be a number of at least 0, got {kld_weight!r}')
        self.kld_weight, self.loss_padding = float(kld_weight), bool(loss_padding)
        self.vae = ConvVAE(self.spec.length, latent_dim, self.condition_dim, channels, norm)
        self.latent_dim = latent_dim

    @property
    def noise_dim(self) -> int:
        """D."""
        return self.latent_dim

    def prior(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and logarithm of the variance of p(z), ``(B, D)`` each."""
        zero = condition.new_zeros(len(condition), self.latent_dim)
        return zero, zero

    def codes(self, condition: Tensor, noise: Tensor) -> Tensor:
        """Return decoded codes; see the base class."""
        z = draw_latent(*self.prior(condition), noise)
        return self.vae.decode(z, condition)[:, : self.spec.length]

    def code_loss(self, codes: Tensor, condition: Tensor) -> dict[str, Tensor]:
        """Return ``loss_recon``, ``loss_kl`` (weighted) and the bare divergence ``kld``."""
        mu, log_var = self.vae.encode(codes, condition)
        found = self.vae.decode(draw_latent(mu, log_var, torch.randn_like(mu)), condition)
        kld = kl_divergence(mu, log_var, *self.prior(condition))
        if self.loss_padding:
            codes = self.vae.pad(codes)
        loss_recon = reconstruction_error(found[:, : codes.shape[1]], codes)
        return dict(loss_recon=loss_recon, loss_kl=self.kld_weight * kld, kld=kld.detach())


@register(MODELS)
class ConditionalPriorCVAE(ConvCVAE):
    """:class:`ConvCVAE` with p(z|c) in the place of N(0, I), as SG-LoRA (CVPR 2026, arXiv 2509.10535) has it.

    A LoRA is generated from the mean of p(z|c), others from z drawn from it.

    Args:
        prior_dim: Width of the network of the prior.
        **kwargs: Of :class:`ConvCVAE`.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(self, prior_dim: int = 256, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_sizes(prior_dim=prior_dim)
        self.prior_net = nn.Sequential(
            nn.Linear(self.condition_dim, prior_dim), nn.GELU(), nn.Linear(prior_dim, 2 * self.latent_dim))
        nn.init.zeros_(self.prior_net[-1].weight)  # It begins as N(0, I).
        nn.init.zeros_(self.prior_net[-1].bias)

    def prior(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and logarithm of the variance of p(z|c), ``(B, D)`` each."""
        return tuple(self.prior_net(condition).chunk(2, dim=1))
