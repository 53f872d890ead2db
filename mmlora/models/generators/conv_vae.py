"""The 1-D convolutional variational autoencoder of ICM-LoRA, over LoRAs as vectors.

Wu et al., "In-Context Meta LoRA Generation", IJCAI 2025, arXiv 2501.17635. With S stages (published: 12) vectors are
padded with zeros to a multiple of ``2^S``::

    encoder   S x [Conv1d(7, stride 2) - BatchNorm - LeakyReLU]             (B, 1, Lp) -> (B, d_S, Lp / 2^S)
    latent    Linear, condition concatenated, two Linear                    -> mu, log_var (B, D)
    decoder   condition concatenated, Linear, S x [ConvTranspose1d - BatchNorm - ELU], Conv1d  (B, D) -> (B, Lp)
    loss      mean squared error + weight * KL(q(z|x,c) || p(z))

Deviations from the published code. Its reconstructions ``(B, Lp)`` were compared with targets ``(B, 1, Lp)``, which
broadcasts to ``(B, B, Lp)`` and pulls each reconstruction to every vector of the batch: :func:`reconstruction_error`
takes equal shapes alone. It cuts what is too long, which is an error here. The decoder takes the channels of the
encoder in reverse, whatever they are; there they must be a palindrome.
"""

from collections.abc import Sequence

import torch
import torch.nn as nn
from torch import Tensor

CHANNELS = (8, 16, 32, 64, 128, 256, 256, 128, 64, 32, 16, 8)
"""Of the 12 published stages."""

NORMS = {'batch': nn.BatchNorm1d, 'group': lambda channels: nn.GroupNorm(1, channels)}
"""Batch statistics, as published, or those of each vector alone, for batches of one."""


def kl_divergence(
    mu: Tensor, log_var: Tensor, prior_mu: Tensor | float = 0.0, prior_log_var: Tensor | float = 0.0
) -> Tensor:
    """Return KL(q || p) of diagonal normal distributions, summed over the latent axis, its mean over the batch.

    Args:
        mu: Mean of q, ``(B, D)``.
        log_var: Logarithm of its variance, ``(B, D)``.
        prior_mu: Mean of p, by default that of N(0, I).
        prior_log_var: Logarithm of its variance.
    """
    prior_log_var = torch.as_tensor(prior_log_var, dtype=mu.dtype, device=mu.device)
    ratio = (log_var.exp() + (mu - prior_mu).square()) / prior_log_var.exp()
    return 0.5 * (ratio - 1 + prior_log_var - log_var).sum(-1).mean()


def reconstruction_error(reconstruction: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared error of vectors, each compared with its own target.

    Args:
        reconstruction: ``(B, L)``.
        target: ``(B, L)``.

    Raises:
        ValueError: The shapes differ, and would broadcast.
    """
    if reconstruction.shape != target.shape:
        raise ValueError(f'reconstructions {tuple(reconstruction.shape)} and targets {tuple(target.shape)} must have '
                         'one shape: broadcast, each vector would be compared with all of the batch')
    return (reconstruction - target).square().mean()


def draw_latent(mu: Tensor, log_var: Tensor, noise: Tensor) -> Tensor:
    """Return ``mu + exp(log_var / 2) * noise``."""
    return mu + (log_var / 2).exp() * noise


class ConvVAE(nn.Module):
    """Encoder and decoder; names of parameters are the published ones.

    Args:
        length: L, elements of a vector.
        latent_dim: D.
        condition_dim: C; 0 is the unconditional autoencoder.
        channels: Of the stages, each of which halves the length.
        norm: ``'batch'`` or ``'group'``.

    Raises:
        ValueError: A number is out of range, or the norm is unknown.
    """

    def __init__(
        self,
        length: int,
        latent_dim: int = 256,
        condition_dim: int = 0,
        channels: Sequence[int] = CHANNELS,
        norm: str = 'batch',
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f'norm={norm!r} must be one of {", ".join(NORMS)}')
        for name, value, least in (('length', length, 1), ('latent_dim', latent_dim, 1),
                                   ('condition_dim', condition_dim, 0), ('channels', min(channels, default=0), 1)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f'{name} must be whole numbers of at least {least}, got {value!r}')
        down, up = list(channels), list(reversed(channels))
        factor = 2 ** len(down)
        self.length, self.padded, self.norm = length, -(-length // factor) * factor, norm
        self.last_length = self.padded // factor
        self.encoder = nn.Sequential(*(_stage(nn.Conv1d(i, o, 7, 2, 3), norm, nn.LeakyReLU())
                                       for i, o in zip([1, *down], down, strict=False)))
        self.to_latent = nn.Linear(down[-1] * self.last_length, latent_dim)
        self.fc_mu = nn.Linear(latent_dim + condition_dim, latent_dim)
        self.fc_var = nn.Linear(latent_dim + condition_dim, latent_dim)
        self.to_decode = nn.Linear(latent_dim + condition_dim, up[0] * self.last_length)
        self.decoder = nn.Sequential(*(_stage(_doubling(i, o), norm, nn.ELU())
                                       for i, o in zip(up, up[1:], strict=False)))
        self.final_layer = _stage(_doubling(up[-1], up[-1]), norm, nn.ELU()).append(nn.Conv1d(up[-1], 1, 7, 1, 3))

    def pad(self, vectors: Tensor) -> Tensor:
        """Return vectors ``(B, L)`` with zeros behind them, ``(B, Lp)``.

        Raises:
            ValueError: They have another length.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.length:
            raise ValueError(f'vectors must be (B, {self.length}), got {tuple(vectors.shape)}')
        return nn.functional.pad(vectors, (0, self.padded - self.length))

    def encode(self, vectors: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return mean and logarithm of the variance of q(z|x,c), ``(B, D)`` each.

        Args:
            vectors: ``(B, L)``.
            condition: ``(B, C)``.

        Raises:
            ValueError: The vectors have another length, or batch statistics would be of one number.
        """
        self._check_batch(vectors)
        hidden = self.to_latent(self.encoder(self.pad(vectors)[:, None]).flatten(1))
        joined = _join(hidden, condition)
        return self.fc_mu(joined), self.fc_var(joined)

    def decode(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return padded vectors, ``(B, Lp)``, of latents ``(B, D)`` and conditions ``(B, C)``.

        Raises:
            ValueError: Batch statistics would be of one number.
        """
        self._check_batch(z)
        hidden = self.to_decode(_join(z, condition))
        return self.final_layer(self.decoder(hidden.unflatten(1, (-1, self.last_length))))[:, 0]

    def _check_batch(self, batch: Tensor) -> None:
        if self.training and self.norm == 'batch' and len(batch) * self.last_length < 2:
            raise ValueError("norm='batch' has no statistics of a single vector of this length: train on batches of "
                             'at least 2 (with drop_last=True of the train_dataloader also where an epoch ends with '
                             "one), or set norm='group'")


def _stage(conv: nn.Module, norm: str, activation: nn.Module) -> nn.Sequential:
    return nn.Sequential(conv, NORMS[norm](conv.out_channels), activation)


def _doubling(inputs: int, outputs: int) -> nn.ConvTranspose1d:
    return nn.ConvTranspose1d(inputs, outputs, 7, 2, 3, output_padding=1)


def _join(hidden: Tensor, condition: Tensor | None) -> Tensor:
    return hidden if condition is None else torch.cat([hidden, condition], dim=1)
