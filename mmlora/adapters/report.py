"""How many parameters learn, and where."""

from dataclasses import dataclass

import torch.nn as nn

from .adapted import adapter_modules
from .added import added_modules


@dataclass(frozen=True)
class ModuleRow:
    """One adapted layer: its name, class, rank of each slice ('' for the whole weight) and learned parameters.

    A layer that is scaled and shifted has no rank, and neither has an added module.
    """

    module: str
    kind: str
    ranks: dict[str, int]
    trainable: int


@dataclass(frozen=True)
class ParameterReport:
    """Parameter counts of a model.

    Attributes:
        trainable: Number of parameters that learn.
        total: Number of all parameters, learned ones included.
        rows: The adapted layers and the added modules, in the order of the model.
        others: Learned parameters outside of them by name, such as those of the head.
    """

    trainable: int
    total: int
    rows: list[ModuleRow]
    others: dict[str, int]

    def __str__(self) -> str:
        share = 100 * self.trainable / self.total if self.total else 0.0
        lines = [f'{self.trainable:,} of {self.total:,} parameters learn ({share:.2f} %)']
        for row in self.rows:
            ranks = ' '.join(f'{name}={r}' if name else str(r) for name, r in row.ranks.items())
            rank = f'rank {ranks}' if ranks else ''
            lines.append(f'  {row.module:<40} {row.kind:<18} {rank:<17} {row.trainable:>10,}')
        lines += [f'  {name:<40} {"":<18} {"":<17} {count:>10,}' for name, count in self.others.items()]
        return '\n'.join(lines)


def parameter_report(model: nn.Module) -> ParameterReport:
    """Count the parameters of a model, shared ones once."""
    parameters = dict(model.named_parameters())
    rows, seen = [], set()
    adapted = {**adapter_modules(model), **added_modules(model)}
    for name in (name for name, _ in model.named_modules() if name in adapted):
        layer = adapted[name]
        own = layer.adapter_parameters()
        ranks = getattr(layer, 'ranks', {})
        rows.append(
            ModuleRow(name, type(layer).__name__, ranks, sum(p.numel() for p in own.values() if p.requires_grad))
        )
        seen.update(id(p) for p in own.values())
    return ParameterReport(
        trainable=sum(p.numel() for p in parameters.values() if p.requires_grad),
        total=sum(p.numel() for p in parameters.values()),
        rows=rows,
        others={n: p.numel() for n, p in parameters.items() if p.requires_grad and id(p) not in seen},
    )
