"""The stable rank of each frozen weight and of its change in the course of a training, as a CSV file."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path

import torch

from ..adapters import LowRankLinear
from ..io.atomic import write_text
from ..ranks import Spectrum, product_spectrum, spectrum, stable_rank


class RankTrack:
    """Entries of a run, one for each layer and time.

    Args:
        layers: The adapted layers by name.
        path: The file; entries of an earlier run up to ``iteration`` are kept.
        iteration: Where the run starts from; 0 for a fresh one.
    """

    def __init__(self, layers: Mapping[str, LowRankLinear], path: Path, iteration: int = 0) -> None:
        self.layers = layers
        self.path = path
        self._rows = _earlier_rows(path, iteration)
        self._frozen: dict[str, float] = {}

    def add(self, epoch: int, iteration: int) -> dict[str, float]:
        """Measure all layers, and write the file.

        Returns:
            The means over the layers whose change is not zero: ``change``, its stable rank, and ``relative_norm``,
            its size beside that of W; empty where all changes are zero.
        """
        rows = [self._measure(epoch, iteration, name, layer) for name, layer in self.layers.items()]
        self._rows += rows
        out = io.StringIO()
        writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator='\n')
        writer.writeheader()
        writer.writerows(self._rows)
        write_text(self.path, out.getvalue())
        known = [row for row in rows if row['change'] != '']
        if not known:
            return {}
        return {key: sum(row[key] for row in known) / len(known) for key in ('change', 'relative_norm')}

    def _measure(self, epoch: int, iteration: int, name: str, layer: LowRankLinear) -> dict:
        weight = layer.frozen_weight
        if name not in self._frozen or layer.weight.requires_grad:
            self._frozen[name] = stable_rank(spectrum(weight, name))
        change = change_spectrum(layer)
        norm = float(weight.detach().float().norm())
        return {
            'epoch': epoch,
            'iter': iteration,
            'module': name,
            'weight': self._frozen[name],
            'change': '' if change is None else stable_rank(change),
            'relative_norm': 0.0 if change is None else change.fro / norm,
        }


def change_spectrum(layer: LowRankLinear) -> Spectrum | None:
    """Return the spectrum of the change, or None while it is zero; from the factors alone where they say it all."""
    if not layer.additive:
        delta = layer.delta().detach()
        return spectrum(delta) if delta.any() else None
    factors = layer.factors()
    scalings = layer.scalings
    a = torch.cat([pair[0] for pair in factors.values()])
    b = torch.block_diag(*(pair[1] * scalings[name] for name, pair in factors.items()))
    return product_spectrum(b, a)


def _earlier_rows(path: Path, iteration: int) -> list[dict]:
    if not path.is_file() or not iteration:
        return []
    rows = csv.DictReader(io.StringIO(path.read_text(encoding='utf-8')))
    return [row for row in rows if (row.get('iter') or '').isdigit() and int(row['iter']) <= iteration]
