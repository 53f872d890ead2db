"""K LoRAs of one layer, side by side: each sample of a batch uses the one that a route names.

The factors lie in one tensor each, ``(K, r, in)`` and ``(K, out, r)``, padded with zeros to the largest rank. With
g neighbouring samples a group and N tokens a sample the change of the output is two batched products::

    h = x A^T        (G, g N, in) x (G, in, r)   -> (G, g N, r)
    y = (s h) B^T    (G, g N, r)  x (G, r, out)  -> (G, g N, out)

Nothing of the size out x in is formed. Padding stays zero in training: the gradient of a row of A is zero where the
column of B is, and the other way round. Element-wise optimizers (SGD, Adam, AdamW) then do to each adapter what they
do to it alone, where the loss is the sum of the means of the tasks and no norm of all gradients is clipped.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .adapted import AdaptedLayer
from .bank_change import add_bank_change, bank_change
from .bank_members import check_member, pairs_of_state
from .lora import LoRALinear
from .lora_weights import Pair, check_pair, ordinary_layer, pairs_of
from .low_rank import LowRankLinear
from .parted import WHOLE, ranks_of_parts
from .route import NONE, Route
from .scaling import shortest
from .sites import computes
from .sliced import SlicedLoRALinear


class LoRABank(AdaptedLayer, nn.Linear):
    """A frozen linear layer with K LoRAs.

    ``lora_A`` ``(K, r, in)`` and ``lora_B`` ``(K, out, r)``, or the same for each adapted slice of a fused projection
    (``lora_A_q`` ...), are the learned tensors; ``lora_scaling`` and ``lora_rank`` ``(K,)`` are buffers. An adapter of
    rank 0 changes nothing. ``bank[k]`` is one of them as an ordinary layer, :meth:`put` takes one in.

    There is no dropout. The adapter that all samples use can be merged; no weight holds K changes.

    Args:
        in_features: Size of each input.
        out_features: Size of each output.
        num_adapters: K, at least 1.
        rank: The largest rank, one for every adapted slice or ``{slice: rank}``.
        slices: The adapted slices of a fused projection; None adapts it as one weight.
        layout: Names of all slices in the order of their rows.
        scaling: Factor of each fresh adapter.
        **kwargs: ``bias``, ``device``, ``dtype`` and ``lora_dtype`` of :class:`LowRankLinear`.

    Attributes:
        windows: Whether the layer sees the windows of an image one behind the other, as in Swin.

    Raises:
        ValueError: A number is out of range, or the slices do not fit.
        TypeError: A number is not whole.
    """

    prefix = 'lora_'
    windows = False

    def __init__(
        self,
        in_features: int,
        out_features: int,
        num_adapters: int,
        rank: int | Mapping[str, int],
        slices: Sequence[str] | None = None,
        layout: Sequence[str] = 'qkv',
        scaling: float = 1.0,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        lora_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        if isinstance(num_adapters, bool) or not isinstance(num_adapters, int) or num_adapters < 1:
            raise ValueError(f'num_adapters must be a whole number of at least 1, got {num_adapters!r}')
        self.num_adapters, self.fresh_scaling = num_adapters, float(scaling)
        self._given_scalings: dict[str, list[float]] = {}  # Buffers hold them in single precision.
        self._grown: dict[str, int] = {}  # Addresses of memories that grow() made, and that have room for more.
        self.layout = WHOLE if slices is None else tuple(layout)
        self._ranks = ranks_of_parts(rank, slices, self.layout, in_features, out_features)
        self.part_rows = out_features // len(self.layout)
        self.route: Route | None = None
        self._first = Route(0, 1)
        self._prepare(lora_dtype)
        like = dict(device=self.weight.device, dtype=self.lora_dtype)
        for part, r in self._ranks.items():
            setattr(self, self._name('A', part), nn.Parameter(torch.empty(num_adapters, r, in_features, **like)))
            setattr(self, self._name('B', part), nn.Parameter(torch.empty(num_adapters, self.part_rows, r, **like)))
            self.register_buffer(self._name('scaling', part), None)
            self.register_buffer(self._name('rank', part), None)
        self.reset_adapter()

    @classmethod
    def from_linear(
        cls, linear: nn.Linear, num_adapters: int, rank: int | Mapping[str, int], **kwargs: Any
    ) -> 'LoRABank':
        """Give K fresh adapters to a layer, whose ``weight`` and ``bias`` Parameters are taken over, uncopied.

        Raises:
            TypeError: ``linear`` computes something else than ``nn.Linear``, or is adapted already.
            ValueError: As the class says.
        """
        if not computes(linear, nn.Linear):
            raise TypeError(f'a bank takes the place of a plain linear layer, got a {type(linear).__name__}')
        bank = cls(linear.in_features, linear.out_features, num_adapters, rank, bias=linear.bias is not None,
                   device='meta', dtype=linear.weight.dtype, **kwargs)
        return bank._take_over(linear)

    @classmethod
    def from_adapters(cls, layers: Sequence[LowRankLinear]) -> 'LoRABank':
        """Gather layers with LoRA of one and the same frozen weight; ranks and scalings may differ.

        Raises:
            ValueError: There is none, they disagree in the frozen tensors or in the layout, one is merged, or one has
                a dropout and is in training.
            TypeError: One is adapted in another way than by LoRA.
        """
        if not layers:
            raise ValueError('a bank needs at least one adapter')
        members = [pairs_of(layer, f'adapter {number}') for number, layer in enumerate(layers)]
        first = layers[0]
        for number, layer in enumerate(layers):
            check_member(first, layer, number)
        plain = nn.Linear(first.in_features, first.out_features, first.bias is not None, device='meta')
        plain.weight, plain.bias = first.weight, first.bias
        parts = [part for part in getattr(first, 'layout', WHOLE) if any(part in pairs for pairs in members)]
        ranks = {part: max(pairs[part].rank for pairs in members if part in pairs) for part in parts}
        sliced = isinstance(first, SlicedLoRALinear)
        bank = cls.from_linear(plain, len(layers), ranks if sliced else ranks[''], slices=parts if sliced else None,
                               layout=first.layout if sliced else 'qkv', lora_dtype=first.lora_dtype)
        for number, pairs in enumerate(members):
            bank.put(number, pairs)
        return bank.train(first.training)

    @torch.no_grad()
    def reset_adapter(self) -> None:
        """Draw each A from Kaiming's uniform distribution with a = sqrt(5), set each B to zero, all at full rank."""
        for part, rank in self._ranks.items():
            a, b = self.tensors(part)
            for one in a:
                nn.init.kaiming_uniform_(one, a=5**0.5)
            nn.init.zeros_(b)
            device, k = self.weight.device, self.num_adapters
            exact = torch.promote_types(self.lora_dtype, torch.float32)
            setattr(self, self._name('scaling', part), torch.full((k,), self.fresh_scaling, device=device, dtype=exact))
            self._given_scalings[part] = [self.fresh_scaling] * k
            setattr(self, self._name('rank', part), torch.full((k,), rank, device=device))

    @property
    def ranks(self) -> dict[str, int]:
        """The largest rank of each adapted slice; the key is '' where there are no slices."""
        return dict(self._ranks)

    @property
    def factor_dtype(self) -> torch.dtype:
        """Type of the learned tensors at present; ``to()`` may have changed it."""
        return self.tensors(next(iter(self._ranks)))[0].dtype

    def __len__(self) -> int:
        """Return K."""
        return self.num_adapters

    def __bool__(self) -> bool:
        """Return True, as any module: K does not matter."""
        return True

    def tensors(self, part: str = '') -> tuple[nn.Parameter, nn.Parameter]:
        """Return A ``(K, r, in)`` and B ``(K, rows, r)`` of a slice."""
        return getattr(self, self._name('A', part)), getattr(self, self._name('B', part))

    def pairs(self, k: int) -> dict[str, Pair]:
        """Return the factors of an adapter by slice, views without the padding; slices of rank 0 are left out.

        Raises:
            IndexError: There is no such adapter.
        """
        self._check_number(k)
        found = {}
        for part in self._ranks:
            rank = int(getattr(self, self._name('rank', part))[k])
            if rank:
                a, b = self.tensors(part)
                found[part] = Pair(a.detach()[k, :rank], b.detach()[k, :, :rank], self._scaling(k, part))
        return found

    def __getitem__(self, k: int) -> LoRALinear | SlicedLoRALinear:
        """Return an adapter as an ordinary layer: a copy of its factors over the same frozen Parameters.

        Raises:
            IndexError: There is no such adapter.
            ValueError: It changes nothing here, no rule gives the scalings of its slices, or the bank is merged.
        """
        self._refuse_if_merged('bank[k]')
        pairs = self.pairs(k)
        if not pairs:
            raise ValueError(f'adapter {k} has rank 0 in this layer: there is nothing to take out')
        return ordinary_layer(self, pairs, self.layout).train(self.training)

    @torch.no_grad()
    def put(self, k: int, state: LowRankLinear | Mapping[str, Any], scaling: float | None = None) -> None:
        """Replace an adapter.

        Args:
            k: Its number.
            state: A layer with LoRA, ``{slice: Pair}``, or a state dict with its names (``lora_A``, ``lora_B_q`` ...;
                ``weight`` and ``bias`` are not looked at). Slices that it lacks become rank 0.
            scaling: Factor where ``state`` is a state dict; None keeps that of the adapter that is there.

        Raises:
            IndexError: There is no such adapter.
            ValueError: A slice is unknown, or a shape or rank does not fit; nothing is changed then.
        """
        self._refuse_if_merged('put')
        self._check_number(k)
        kept = {part: self._scaling(k, part) for part in self._ranks} if scaling is None else {}
        pairs = pairs_of_state(state, lambda part: kept.get(part, scaling))
        self.check(pairs)
        for part in self._ranks:
            a, b = self.tensors(part)
            rank = pairs[part].rank if part in pairs else 0
            if rank:  # Copied before the rest is cleared: the factors may be those that pairs() gives views of.
                a[k, :rank].copy_(pairs[part].a)
                b[k, :, :rank].copy_(pairs[part].b)
                self._given_scalings[part][k] = pairs[part].scaling
                getattr(self, self._name('scaling', part))[k] = pairs[part].scaling
            a[k, rank:].zero_()
            b[k, :, rank:].zero_()
            getattr(self, self._name('rank', part))[k] = rank

    @torch.no_grad()
    def grow(self) -> None:
        """Make room for one more adapter, of rank 0; its number is the K of before.

        Tensors become longer ones, in a memory for twice as many wherever a new one is needed: K adapters, one after
        the other, then cost K copies and not K². The learned tensors are others afterwards: optimizers and
        :class:`Member` do not know them.
        """
        self._refuse_if_merged('grow')
        for part in self._ranks:
            for letter, tensor in zip('AB', self.tensors(part), strict=True):
                name = self._name(letter, part)
                setattr(self, name, nn.Parameter(self._longer(name, tensor), tensor.requires_grad))
            scaling, rank = (getattr(self, self._name(what, part)) for what in ('scaling', 'rank'))
            setattr(self, self._name('scaling', part), torch.cat([scaling, scaling.new_tensor([self.fresh_scaling])]))
            setattr(self, self._name('rank', part), torch.cat([rank, rank.new_zeros(1)]))
            self._given_scalings[part].append(self.fresh_scaling)
        self.num_adapters += 1

    def __getstate__(self) -> dict[str, Any]:
        """Leave out whose memory has room: a copy that shares it would write where its original does."""
        return {**self.__dict__, '_grown': {}}

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name in () if keep_vars else self._grown:  # A file would hold the whole memory, with the room for more.
            destination[prefix + name] = destination[prefix + name].clone()

    def _longer(self, name: str, tensor: Tensor) -> Tensor:
        """Return a tensor with zeros for one more adapter, in the same memory if it is one of this bank with room."""
        k, memory = len(tensor), tensor.untyped_storage()
        if memory.data_ptr() != self._grown.get(name) or memory.nbytes() < tensor.nbytes // k * (k + 1):
            longer = tensor.new_zeros(2 * (k + 1), *tensor.shape[1:])
            longer[:k] = tensor
            self._grown[name] = longer.untyped_storage().data_ptr()
            return longer[: k + 1]
        return tensor.detach().as_strided((k + 1, *tensor.shape[1:]), tensor.stride(), 0)

    def check(self, pairs: Mapping[str, Pair]) -> None:
        """Check that there is room for an adapter.

        Raises:
            ValueError: A slice is unknown, or a shape or rank does not fit.
        """
        unknown = sorted(set(pairs) - set(self._ranks))
        if unknown:
            raise ValueError(f'this bank has room for {sorted(self._ranks)}, the adapter has {unknown}')
        for part, pair in pairs.items():
            where = f'slice {part!r}' if part else 'the adapter'
            check_pair(pair, self.in_features, self.part_rows, where)
            if pair.rank > self._ranks[part]:
                raise ValueError(f'{where} has rank {pair.rank}, this bank has room for {self._ranks[part]}')

    def change(self, x: Tensor) -> Tensor | None:
        """Return what the routed adapters add to the output; None where no sample uses one.

        Raises:
            RuntimeError: No route is set and there are several adapters.
            ValueError: The input does not begin with the axis of the samples of the route.
        """
        route, repeats = self._route_for(x)
        if route.single == NONE:
            return None
        rows = route.rows_used(repeats)
        chosen = (x if rows is None else x[rows]).to(self.factor_dtype)
        change = bank_change(chosen, self._grouped(route), self.layout)
        if rows is None:
            return change
        return change.new_zeros(*x.shape[:-1], self.out_features).index_copy(0, rows, change)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the frozen layer and the change of each sample, ``(B, ..., in_features) -> (B, ..., out_features)``."""
        if self.merged:
            self._refuse_if_trained()
            return F.linear(x, self.weight, self.bias)
        if torch.compiler.is_compiling():
            y = F.linear(x, self.weight, self.bias)
            return y + self._traced_change(x).to(y.dtype)
        route, _ = self._route_for(x)
        if route.used is None and route.single != NONE and x.dtype == self.weight.dtype == self.factor_dtype:
            factors = self._grouped(route)
            grouped = x.reshape(len(next(iter(factors.values()))[0]), -1, x.shape[-1])  # a view of y would cost a copy
            y = add_bank_change(F.linear(grouped, self.weight, self.bias), grouped, factors, self.layout)
            return y.view(*x.shape[:-1], self.out_features)
        y, change = F.linear(x, self.weight, self.bias), self.change(x)
        return y if change is None else y + change.to(y.dtype)

    def changed(self) -> tuple[Tensor, Tensor | None]:
        """Return ``W + delta`` of the adapter that all samples use, W where they use none, and the bias.

        Raises:
            RuntimeError: No route is set and there are several adapters.
            ValueError: Samples use several, which no one weight can hold.
        """
        k, weight = self._present_route().single, self.frozen_weight
        if k is None:
            raise ValueError('the samples of a batch use several adapters, which no one weight can hold: choose one')
        weight = weight.to(torch.promote_types(self.factor_dtype, weight.dtype), copy=True)
        for part, pair in self.pairs(k).items() if k != NONE else ():
            start = self.layout.index(part) * self.part_rows
            weight[start : start + self.part_rows] += pair.delta()
        return weight, self.frozen_bias

    def to_plain(self) -> nn.Linear:
        """Return a plain layer that computes the same as the adapter that all samples use; see :meth:`changed`."""
        return self._filled(nn.Linear(self.in_features, self.out_features, device='meta'))

    def _grouped(self, route: Route) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        """Return A, B and scaling of each group by slice."""
        found = {}
        for part in self._ranks:
            scaling = getattr(self, self._name('scaling', part)).to(self.factor_dtype)
            tensors = (*self.tensors(part), scaling)
            if route.single is not None:
                tensors = tuple(t[route.single : route.single + 1] for t in tensors)
            elif not route.in_order:
                tensors = tuple(t.index_select(0, route.groups) for t in tensors)
            found[part] = tensors
        return found

    def _traced_change(self, x: Tensor) -> Tensor:
        """Return the change by operations that are the same for all routes of one length.

        What they do depends on values of tensors alone, so that another choice of adapters compiles nothing anew.
        """
        route = self._present_route()
        repeats = route.repeats(x.shape[0], self.windows, f'a {self.in_features} -> {self.out_features} layer')
        index = route.index.to(x.device).repeat_interleave(repeats)
        factors = {}
        for part in self._ranks:
            tensors = (*self.tensors(part), getattr(self, self._name('scaling', part)).to(self.factor_dtype))
            a, b, scaling = (t.index_select(0, index.clamp(min=0)) for t in tensors)
            factors[part] = a, b, scaling * (index != NONE)
        return bank_change(x.to(self.factor_dtype), factors, self.layout)

    def _route_for(self, x: Tensor) -> tuple[Route, int]:
        """Return the route, on the device of an input, and how many rows of the input belong to one sample."""
        route = self._present_route().to(x.device)
        return route, route.repeats(x.shape[0], self.windows, f'a {self.in_features} -> {self.out_features} layer')

    def _present_route(self) -> Route:
        if self.route is not None:
            return self.route
        if self.num_adapters > 1:
            raise RuntimeError(f'which of the {self.num_adapters} adapters shall be used? Call the model within '
                               '"with route(model, indices):"; a backward pass that computes anew (with_cp) too')
        return self._first

    def _scaling(self, k: int, part: str) -> float:
        """Return the scaling of an adapter: as it was given, unless another one has been loaded since."""
        stored, given = getattr(self, self._name('scaling', part))[k], self._given_scalings[part][k]
        own = [stored.new_tensor(given).item(), torch.tensor(given, dtype=torch.float32).item()]  # The latter widened.
        return given if stored.item() in own else shortest(stored)

    def _check_number(self, k: int) -> None:
        if not 0 <= k < self.num_adapters:
            raise IndexError(f'a bank of {self.num_adapters} adapters has the numbers 0..{self.num_adapters - 1}, '
                             f'got {k}')

    def _name(self, what: str, part: str) -> str:
        return f'lora_{what}_{part}' if part else f'lora_{what}'

    def extra_repr(self) -> str:
        """Return the arguments that a reader of ``print(model)`` looks for."""
        return f'{super().extra_repr()}, num_adapters={self.num_adapters}, ranks={self._ranks}'
