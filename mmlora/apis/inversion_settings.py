"""The constants of LoRA inversion, each with the published value as its default."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..adapters.token_pruning import check_schedule

KEEP = ('best', 'last')


@dataclass(frozen=True)
class InversionSettings:
    """How images are synthesised.

    Attributes:
        iterations: Steps of Adam.
        lr: Its learning rate, in normalised space.
        betas: Its two decay rates.
        ce_weight: Of the cross entropy to the wanted classes.
        bn_weight: Of the prior by BatchNorm statistics.
        tv_weight: Of the total variation; published runs leave it out.
        l2_weight: Of the norm of the whole batch; published runs leave it out.
        prune_layers: Layers that prune tokens, from 0, negative ones from the end; none by default.
        prune_ratios: For each of them the part of the patches still present that leaves.
        prune_start: Part of the iterations after which pruning begins.
        jitter: Largest shift of the images in a step, as a part of their size.
        flip: Probability of a flip in a step.
        keep: ``'best'`` keeps the images with the smallest loss that a step has seen; ``'last'`` those of the end, as
            the published code does in effect. Losses before pruning began are not compared with those after it.
        amp: Run the classifier in bfloat16 where that is safe. Images, prior and losses stay as they are.
    """

    iterations: int = 2000
    lr: float = 0.25
    betas: tuple[float, float] = (0.5, 0.99)
    ce_weight: float = 1.0
    bn_weight: float = 0.01
    tv_weight: float = 0.0
    l2_weight: float = 0.0
    prune_layers: Sequence[int] = ()
    prune_ratios: Sequence[float] = ()
    prune_start: float = 0.25
    jitter: float = 1 / 8
    flip: float = 0.5
    keep: str = 'best'
    amp: bool = False

    def __post_init__(self) -> None:
        """Refuse what makes no sense.

        Raises:
            TypeError: A value has another type.
            ValueError: A value is out of range.
        """
        if isinstance(self.iterations, bool) or not isinstance(self.iterations, int):
            raise TypeError(f'iterations must be a whole number, got {self.iterations!r}')
        if self.iterations < 1:
            raise ValueError(f'iterations must be at least 1, got {self.iterations}')
        for name in ('lr', 'ce_weight', 'bn_weight', 'tv_weight', 'l2_weight', 'prune_start', 'jitter', 'flip'):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f'{name} must be a number, got {value!r}')
            limit = 1.0 if name in ('prune_start', 'jitter', 'flip') else float('inf')
            if not 0 <= value <= limit or value == float('inf'):
                raise ValueError(f'{name} must lie in [0, {limit:g}], got {value}')
        if self.lr == 0:
            raise ValueError('lr must be above 0, or the images would stay noise')
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f'betas must be two numbers in [0, 1), got {self.betas!r}')
        if self.keep not in KEEP:
            raise ValueError(f'keep must be one of {", ".join(KEEP)}, got {self.keep!r}')
        layers, ratios = check_schedule(self.prune_layers, self.prune_ratios)
        for name, value in (('prune_layers', layers), ('prune_ratios', ratios), ('betas', tuple(self.betas))):
            object.__setattr__(self, name, value)

    @property
    def prune_from(self) -> int:
        """The iteration, from 0, in which pruning begins."""
        return int(self.iterations * self.prune_start)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as data that JSON holds without loss."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> 'InversionSettings':
        """Return settings by name.

        Raises:
            TypeError: There is no such setting, or one has another type.
            ValueError: A value is out of range.
        """
        unknown = sorted(set(given) - {f.name for f in fields(cls)})
        if unknown:
            raise TypeError(f'unknown settings {unknown}: choose from {", ".join(f.name for f in fields(cls))}')
        return cls(**given)
