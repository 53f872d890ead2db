"""From vectors of LoRA weights to codes that a generator learns, and back.

ICM-LoRA (IJCAI 2025, arXiv 2501.17635) normalises each tensor of each LoRA by a mean and a standard deviation of its
own, ``sample_tensor`` here. A generated vector then has no statistics, and the published code takes those of a trained
LoRA of the same task. Deviations:

* ``bank_tensor`` (one mean and deviation of each tensor over all LoRAs) and ``bank_element`` (of each element; the
  z-score of Text-to-LoRA, arXiv 2506.06105) need no donor. ``sample_tensor`` takes the means of the statistics of the
  bank where none are given. Whatever was fitted is a buffer, so that the file of a generator generates alone.
* A tensor or element that does not vary is left out: its code is 0, decoding gives its mean. The published code divides
  by a deviation of zero.
* ``factors='B'`` stands over one A that all LoRAs share. Else any ``B M^-1, M A`` is the same change: with
  ``canonical='svd'`` each pair becomes ``U sqrt(S), sqrt(S) V^T`` of ``B A = U S V^T``, which is the same for all.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from ...adapters.lora_spec import LoRASpec
from ...plain_json import parse_json

STD_FLOOR = 1e-8
"""Standard deviation from which on a tensor or element counts as varying."""

FACTORS = ('AB', 'B')
CANONICAL = (None, 'svd')
PARTS = {'spec', 'normalise', 'factors', 'canonical'}
_DIGEST = len('""') + 64
"""Characters of a sha256 in JSON."""


def canonical_pair(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the balanced factors of a product, which do not depend on how it was factored.

    ``B A = U S V^T`` gives ``sqrt(S) V^T`` and ``U sqrt(S)``. The entry of each column of U that is largest in size is
    positive. No dense product is formed.

    Args:
        a: ``(..., r, in)``.
        b: ``(..., rows, r)``.

    Returns:
        A and B of the same shapes and type; zeros where the product has a smaller rank.
    """
    qb, rb = torch.linalg.qr(b.double())
    qa, ra = torch.linalg.qr(a.double().mT)
    u, s, vt = torch.linalg.svd(rb @ ra.mT)
    u, vt, root = qb @ u, vt @ qa.mT, s.sqrt()
    largest = u.gather(-2, u.abs().argmax(-2, keepdim=True))  # (..., 1, r)
    sign = torch.where(largest < 0, -1.0, 1.0).to(u)
    return ((root * sign[..., 0, :]).unsqueeze(-1) * vt).to(a.dtype), (u * (sign * root.unsqueeze(-2))).to(b.dtype)


def canonical_vectors(spec: LoRASpec, vectors: Tensor) -> Tensor:
    """Return vectors with all their pairs in canonical form, ``(..., L)``.

    Raises:
        ValueError: The spec lacks a factor, or the vectors have another length.
    """
    tensors = spec.split(vectors)
    for pair in spec.weights({entry.key: entry.key for entry in spec.entries}).values():
        tensors[pair.a], tensors[pair.b] = canonical_pair(tensors[pair.a], tensors[pair.b])
    return torch.cat([tensors[key].flatten(vectors.ndim - 1) for key in spec.keys], dim=-1)


def tensor_statistics(spec: LoRASpec, vectors: Tensor) -> Tensor:
    """Return mean and unbiased standard deviation of each tensor of each vector, ``(n, 2, T)`` of float64.

    A tensor of one element has a deviation of 0.
    """
    found = []
    for part in vectors.double().split(spec.lengths, dim=-1):
        found.append(torch.stack([part.mean(-1), part.std(-1, correction=min(1, part.shape[-1] - 1))], dim=-1))
    return torch.stack(found, dim=-1)


def _of_samples(spec: LoRASpec, vectors: Tensor) -> tuple[Tensor, Tensor]:
    return tuple(tensor_statistics(spec, vectors).mean(0))


def _of_tensors(spec: LoRASpec, vectors: Tensor) -> tuple[Tensor, Tensor]:
    parts = [part.reshape(-1) for part in vectors.double().split(spec.lengths, dim=-1)]
    return (torch.stack([part.mean() for part in parts]),
            torch.stack([part.std(correction=min(1, len(part) - 1)) for part in parts]))


def _of_elements(spec: LoRASpec, vectors: Tensor) -> tuple[Tensor, Tensor]:
    if len(vectors) < 2:
        raise ValueError(f"normalise='bank_element' needs at least 2 LoRAs to vary, got {len(vectors)}: keep more "
                         "checkpoints or take normalise='bank_tensor'")
    return vectors.double().mean(0), vectors.double().std(0)


NORMALISATIONS = {'sample_tensor': _of_samples, 'bank_tensor': _of_tensors, 'bank_element': _of_elements}
"""Name -> function of a spec and vectors ``(n, L)`` that gives the fitted mean and standard deviation."""


class LoRACodec(nn.Module):
    """Normalises vectors of LoRA weights.

    All that decoding needs is in the state: the spec, the statistics, the shared A. ``from_state`` builds the codec
    from it; loading a state of another spec, or one without statistics, is refused.

    Args:
        spec: Of the LoRAs, both factors.
        normalise: ``'sample_tensor'``, ``'bank_tensor'`` or ``'bank_element'``.
        factors: ``'AB'``: vectors hold both factors. ``'B'``: they hold B alone, over one A that is fitted.
        canonical: ``'svd'`` encodes the canonical form of each pair, which is what decoding then gives.

    Attributes:
        spec: Of the vectors, of L elements: that of B alone with ``factors='B'``.
        full_spec: Of the LoRAs.

    Raises:
        ValueError: A setting is unknown, or settings contradict each other.
    """

    def __init__(
        self, spec: LoRASpec, normalise: str = 'bank_tensor', factors: str = 'AB', canonical: str | None = None
    ) -> None:
        super().__init__()
        for name, value, known in (('normalise', normalise, tuple(NORMALISATIONS)), ('factors', factors, FACTORS),
                                   ('canonical', canonical, CANONICAL)):
            if value not in known:
                raise ValueError(f'{name} must be one of {known}, got {value!r}')
        if canonical and factors != 'AB':
            raise ValueError(f"canonical={canonical!r} changes A too and needs factors='AB', got {factors!r}")
        self.normalise, self.factors, self.canonical = normalise, factors, canonical
        self.full_spec, self.spec = spec, spec if factors == 'AB' else spec.only('B')
        if factors == 'AB' or len(spec.entries) > len(self.spec.entries):
            spec.weights(dict.fromkeys(spec.keys))
        size = self.spec.length if normalise == 'bank_element' else len(self.spec.entries)
        shared = 0 if factors == 'AB' else spec.length - self.spec.length
        document = dict(spec=spec.to_document(), normalise=normalise, factors=factors, canonical=canonical)
        self.register_buffer('document', _write_document(document))
        self.register_buffer('mean', torch.zeros(size))
        self.register_buffer('std', torch.zeros(size))
        self.register_buffer('shared', torch.zeros(shared))
        self.register_buffer('count', torch.tensor(0))
        self.register_buffer('lengths', torch.tensor(self.spec.lengths), persistent=False)

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor], prefix: str = '') -> 'LoRACodec':
        """Build the codec of a state and fill it.

        Args:
            state: Such as the ``state_dict`` of a generator.
            prefix: Before the names of the codec's own, such as ``'codec.'``.

        Raises:
            ValueError: The state has no codec, or it is damaged.
        """
        own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        document = read_document(own.get('document'))
        codec = cls(LoRASpec.from_document(document.pop('spec')), **document)
        codec.load_state_dict({key: value for key, value in own.items() if key in codec.state_dict()})
        return codec

    def bind(self, base_sha256: str) -> None:
        """Say on which weights the LoRAs stand.

        Raises:
            ValueError: They stand on others already.
        """
        bound = replace(self.full_spec, base_sha256=base_sha256)
        bound.check_same(self.full_spec, 'what the generator was made for')
        self._take(bound)
        document = dict(read_document(self.document), spec=bound.to_document())
        self.document = _write_document(document).to(self.document.device)

    def _take(self, spec: LoRASpec) -> None:
        self.full_spec, self.spec = spec, spec if self.factors == 'AB' else spec.only('B')

    @property
    def fitted(self) -> bool:
        """Whether there are statistics."""
        return bool(self.count)

    @property
    def constant(self) -> Tensor:
        """Which elements do not vary, bool ``(L,)``: their codes are 0, and no loss need look at them."""
        return self._spread(self.std <= STD_FLOOR)

    @torch.no_grad()
    def fit(self, vectors: Tensor, shared: Mapping[str, Tensor] | None = None) -> 'LoRACodec':
        """Fill the statistics.

        Args:
            vectors: ``(n, L)``.
            shared: With ``factors='B'`` the A of all LoRAs by their keys.

        Returns:
            The codec itself.

        Raises:
            ValueError: There is no vector, they have another length or are not finite, there are too few to vary, or
                the shared A is missing or given in vain.
        """
        self._check(vectors, 'the bank')
        if vectors.ndim != 2 or len(vectors) < 1:
            raise ValueError(f'a codec is fitted to vectors (n, {self.spec.length}), n at least 1, got '
                             f'{tuple(vectors.shape)}')
        if self.shared.numel():
            if not shared:
                raise ValueError("factors='B' needs the A that all LoRAs share: fit(vectors, shared={key: A})")
            own = self.full_spec.only('A').flatten(shared)
            _check_finite(own, 'the shared A')
            self.shared.copy_(own)
        elif shared:
            raise ValueError(f'there is no shared A with factors={self.factors!r} and {len(self.full_spec.entries)} '
                             f'entries, got {sorted(shared)[:3]}')
        mean, std = NORMALISATIONS[self.normalise](self.spec, self._canonical(vectors))
        self.mean.copy_(mean)
        self.std.copy_(std)
        self.count.fill_(len(vectors))
        return self

    def encode(self, vectors: Tensor) -> Tensor:
        """Return the codes of vectors, ``(n, L) -> (n, L)``.

        Raises:
            ValueError: They have another length or are not finite, or the codec is not fitted.
        """
        self._check(vectors, 'the LoRAs')
        vectors = self._canonical(vectors)
        return self._normalised(vectors, *self._mean_std(vectors.dtype, self._own_statistics(vectors)))

    def decode(self, codes: Tensor, statistics: Tensor | None = None) -> Tensor:
        """Return the vectors of codes, ``(n, L) -> (n, L)``; gradients flow.

        Args:
            codes: ``(n, L)``.
            statistics: With ``'sample_tensor'`` those of donors, ``(n, 2, T)`` of :meth:`statistics`; else None.

        Raises:
            ValueError: They have another length, the codec is not fitted, or it takes no statistics.
        """
        self.spec.check_length(codes, 'a code')
        if statistics is not None and self.normalise != 'sample_tensor':
            raise ValueError(f"normalise={self.normalise!r} has statistics of its own: only 'sample_tensor' takes some")
        mean, std = self._mean_std(codes.dtype, statistics)
        return torch.where(std <= STD_FLOOR, mean, codes * std + mean)

    def statistics(self, vectors: Tensor) -> Tensor:
        """Return mean and deviation of each tensor of each vector, ``(n, 2, T)``, with which decoding is exact.

        Raises:
            ValueError: They have another length or are not finite.
        """
        self._check(vectors, 'the LoRAs')
        return tensor_statistics(self.spec, self._canonical(vectors)).to(vectors.dtype)

    def tensors(self, vector: Tensor) -> dict[str, Tensor]:
        """Return all tensors of decoded vectors ``(..., L)`` by key; the shared A among them has no leading axes.

        Raises:
            ValueError: They have another length, or the shared A is not fitted.
        """
        found = self.spec.split(vector)
        if self.shared.numel():
            self._check_fitted()
            found = {**self.full_spec.only('A').split(self.shared), **found}
        return found

    def _own_statistics(self, vectors: Tensor) -> Tensor | None:
        return tensor_statistics(self.spec, vectors) if self.normalise == 'sample_tensor' else None

    def _mean_std(self, dtype: torch.dtype, statistics: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of each element, ``(L,)`` or ``(n, L)``."""
        if statistics is None:
            self._check_fitted()
            return self._spread(self.mean.to(dtype)), self._spread(self.std.to(dtype))
        return tuple(self._spread(one.to(dtype)) for one in statistics.unbind(-2))

    def _normalised(self, vectors: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        varies = std > STD_FLOOR
        return torch.where(varies, (vectors - mean) / torch.where(varies, std, 1.0), 0.0)

    def _spread(self, values: Tensor) -> Tensor:
        """Return a value for each element from one for each tensor, ``(..., T) -> (..., L)``."""
        return values if values.shape[-1] == self.spec.length else values.repeat_interleave(self.lengths, dim=-1)

    def _canonical(self, vectors: Tensor) -> Tensor:
        return vectors if self.canonical is None else canonical_vectors(self.spec, vectors)

    def _check(self, vectors: Tensor, what: str) -> None:
        self.spec.check_length(vectors, what)
        _check_finite(vectors, what)

    def _check_fitted(self) -> None:
        if not self.fitted:
            raise ValueError('the codec has no statistics: call fit(vectors) with a bank, or load a generator that was '
                             'saved after it')

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        # Raised here, since mmengine only logs what is missing or does not fit.
        missing = [name for name in self.state_dict() if prefix + name not in state_dict]
        if missing:
            raise ValueError(f'the file has no {prefix}{missing[0]}: it was saved without the statistics of the LoRAs, '
                             'and cannot generate. Save the whole state of the generator')
        document = read_document(state_dict[f'{prefix}document'])
        spec = LoRASpec.from_document(document['spec'])
        self.full_spec.check_same(spec, 'the LoRA of the file')
        for name in ('normalise', 'factors', 'canonical'):
            if document.get(name) != getattr(self, name):
                raise ValueError(f'the file was fitted with {name}={document.get(name)!r}, this codec has '
                                 f'{getattr(self, name)!r}')
        self._take(spec)
        self.document = state_dict[f'{prefix}document'].to(self.document.device, copy=True)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        """Return what a reader of ``print(model)`` looks for."""
        return (f'length={self.spec.length}, normalise={self.normalise!r}, factors={self.factors!r}, '
                f'canonical={self.canonical!r}, fitted={self.fitted}')


def _check_finite(vectors: Tensor, what: str) -> None:
    if not vectors.isfinite().all():
        bad = (~vectors.isfinite()).sum().item()
        raise ValueError(f'{what}: {bad} of {vectors.numel()} values are not finite, as of a training that diverged')


def _write_document(document: Mapping[str, Any]) -> Tensor:
    text = json.dumps(document, sort_keys=True)
    if document['spec']['base_sha256'] is None:  # One length, bound or not: averaged copies of a model must fit it.
        text += ' ' * (_DIGEST - len('null'))
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def read_document(document: Tensor | None) -> dict[str, Any]:
    """Return what the buffer ``document`` of a codec says: its arguments, as plain data.

    Raises:
        ValueError: It is missing or damaged.
    """
    if document is None:
        raise ValueError('the state has no codec: it lacks "document", which says what the vectors mean')
    try:
        found = parse_json(bytes(document.tolist()).decode())
    except (TypeError, ValueError) as error:
        raise ValueError(f'the document of the codec is damaged: {error}') from error
    if not isinstance(found, dict) or not isinstance(found.get('spec'), dict) or set(found) - PARTS:
        raise ValueError(f'the document of the codec must hold {sorted(PARTS)}, got {str(found)[:200]}')
    return found
