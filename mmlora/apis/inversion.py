"""LoRA inversion: images from a classifier and nothing else.

Part of LoRA-Recycle (Hu et al., "LoRA Recycle: Unlocking Tuning-Free Few-Shot Adaptability in Visual Foundation Models
by Recycling Pre-Tuned LoRAs", CVPR 2025), eqs. 1 and 2. Images start as noise and are changed by Adam until a
classifier (backbone, adapters and head) takes them for the wanted classes and the BatchNorm layers of a second network
for likely images::

    L = ce CE(classifier(u), y) + bn R_BN(u) + tv TV(x) + l2 ||x||_2        u: x shifted and flipped

They live in normalised space and are clamped after every step to what pixels can be. From some iteration on tokens
are pruned (:mod:`mmlora.adapters.token_pruning`).

Deviations from the published code: the images with the smallest loss are really kept (it keeps a reference to those
that go on changing), the residual of pruned layers is right, and the prior sees images in its own normalisation.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ..adapters.token_pruning import TokenPruning, TokenRecord, settle_schedule
from ..adapters.token_sites import find_vision_transformer
from ..models.batch_norm_prior import BatchNormPrior
from ..progress import progress_line
from ..ranks import weights_sha256
from .inversion_settings import InversionSettings
from .inversion_state import InversionState, load_state, save_state
from .inversion_terms import Augmentation, draw_augmentation, draw_start, to_pixels, total_variation, valid_range


@dataclass(frozen=True)
class Inverted:
    """What an inversion gives; all tensors are on the CPU.

    Attributes:
        images: ``(B, C, H, W)``, pixels in [0, 1].
        losses: ``(B,)`` cross entropy of each image as it is, neither shifted nor flipped.
        correct: ``(B,)`` bool, whether the classifier takes the image for the wanted class.
        step: The iteration, from 0, before which the images were kept; that of the end for ``keep='last'``.
        record: The tokens of the images as they are; None where the classifier has no vision transformer.
    """

    images: Tensor
    losses: Tensor
    correct: Tensor
    step: int
    record: TokenRecord | None


@dataclass(frozen=True)
class Progress:
    """Where an inversion is.

    Attributes:
        step: Finished iterations.
        iterations: All of them.
        loss: The weighted sum in the last one.
        terms: Its terms, not weighted.
        rate: Iterations a second since the start or the resumption.
    """

    step: int
    iterations: int
    loss: float
    terms: dict[str, float]
    rate: float


class LoRAInversion:
    """Synthesises images for a classifier.

    Args:
        settings: Constants; by default those of the paper, without pruning.
        prior: Says which images are likely. None leaves that term out.
    """

    def __init__(self, settings: InversionSettings | None = None, prior: BatchNormPrior | None = None) -> None:
        self.settings = settings or InversionSettings()
        self.prior = prior

    def __call__(
        self,
        classifier: nn.Module,
        targets: Sequence[int],
        image_size: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        seed: int = 0,
        state_file: str | os.PathLike | None = None,
        save_every: int = 100,
        report: Callable[[Progress], object] | None = None,
        report_every: int = 100,
    ) -> Inverted:
        """Synthesise one image for each target.

        All draws follow from the seed and the iteration, so a run that goes on from its state file gives what it would
        have given.

        Args:
            classifier: Called with normalised images ``(B, C, H, W)``, it returns logits ``(B, classes)``. It is left
                as it was.
            targets: Wanted label of each image.
            image_size: Height and width.
            mean: Of the pixels in [0, 1] by which images are normalised, by channel.
            std: Standard deviation of the same.
            seed: Of all draws.
            state_file: Where the unfinished inversion is kept, every ``save_every`` iterations; it is read if it
                exists. The caller removes it. None keeps none.
            save_every: Iterations, at least 1.
            report: Called every ``report_every`` iterations and after the last one.
            report_every: Iterations, at least 1.

        Raises:
            ValueError: A label is out of range, pruning does not fit the classifier, the state file belongs to another
                inversion, or the loss is no longer finite.
        """
        settings, like = self.settings, _first_parameter(classifier)
        dtype = like.dtype if like.dtype == torch.float64 else torch.float32
        labels = torch.as_tensor(list(targets), device=like.device)
        self._check(classifier, labels, save_every, report_every)
        shape = (len(labels), len(mean), *image_size)
        about = dict(settings=settings.to_dict(), seed=seed, targets=labels.tolist(), shape=list(shape))
        about |= dict(mean=list(mean), std=list(std), prior=None if self.prior is None else self.prior.describe())
        if state_file is not None:
            about['classifier'] = _digest(classifier)
        state = None if state_file is None else load_state(state_file, about)
        state = state or InversionState.new(self.start(shape, seed, dtype))
        if self.prior is not None:
            self.prior.to(like.device, dtype)
        with _frozen(classifier), progress_line('iteration', settings.iterations, state.step) as line:
            for done in self._iterate(classifier, state, labels, mean, std, seed):
                line.update(done.step, loss=done.loss)
                if report is not None and (done.step % report_every == 0 or done.step == settings.iterations):
                    report(done)
                if state_file is not None and (done.step % save_every == 0 or done.step == settings.iterations):
                    save_state(state_file, state, about)
            return self._finish(classifier, state, labels, mean, std)

    def start(self, shape: Sequence[int], seed: int, dtype: torch.dtype) -> Tensor:
        """Return the first images, in normalised space, on the CPU."""
        return draw_start(shape, seed, dtype)

    def augmentation(self, size: tuple[int, int], seed: int, step: int) -> Augmentation:
        """Return what an iteration does to the images before it looks at them."""
        return draw_augmentation(size, self.settings.jitter, self.settings.flip, seed, step)

    def _check(self, classifier: nn.Module, labels: Tensor, save_every: int, report_every: int) -> None:
        if labels.ndim != 1 or not len(labels) or labels.is_floating_point() or int(labels.min()) < 0:
            raise ValueError(f'targets must be labels from 0, one for each image, got {labels.tolist()[:10]}')
        if min(save_every, report_every) < 1:
            raise ValueError(f'save_every={save_every} and report_every={report_every} must be at least 1')
        if self.settings.prune_layers:
            backbone = find_vision_transformer(classifier, 'pruning')
            settle_schedule(self.settings.prune_layers, self.settings.prune_ratios, len(backbone.layers))

    def _iterate(
        self,
        classifier: nn.Module,
        state: InversionState,
        labels: Tensor,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int,
    ) -> Iterator[Progress]:
        """Run the iterations that are left, changing the state in place."""
        settings, device = self.settings, labels.device
        x = state.x = state.x.to(device).clone().requires_grad_(True)
        least, greatest = valid_range(mean, std, x)
        optimizer = torch.optim.Adam([x], lr=settings.lr, betas=settings.betas)
        moments = dict(exp_avg=state.exp_avg.to(device).clone(), exp_avg_sq=state.exp_avg_sq.to(device).clone())
        optimizer.state[x] = dict(moments, step=torch.tensor(float(state.step)))
        began, first = time.perf_counter(), state.step
        pruning = TokenPruning(settings.prune_layers, settings.prune_ratios) if settings.prune_layers else None
        try:
            for step in range(state.step, settings.iterations):
                if pruning is not None and step >= settings.prune_from and not pruning.attached:
                    pruning.attach(classifier)
                    if step == settings.prune_from:  # The loss is another one from here on.
                        state.best_loss, state.best_step = float('inf'), -1
                terms = self._terms(classifier, x, labels, mean, std, self.augmentation(x.shape[2:], seed, step))
                loss = sum(weight * term for weight, term in terms.values())
                value = loss.item()
                if not value < float('inf'):
                    raise ValueError(
                        f'the loss of iteration {step} is {value}: lower lr={settings.lr:g}, or turn amp off'
                    )
                if value < state.best_loss:
                    state.best, state.best_loss, state.best_step = x.detach().clone(), value, step
                (x.grad,) = torch.autograd.grad(loss, x)
                optimizer.step()
                with torch.no_grad():
                    x.copy_(torch.minimum(torch.maximum(x, least), greatest))
                own = optimizer.state[x]
                state.step, state.exp_avg, state.exp_avg_sq = step + 1, own['exp_avg'], own['exp_avg_sq']
                rate = (state.step - first) / (time.perf_counter() - began)
                yield Progress(
                    state.step, settings.iterations, value, {k: float(t.detach()) for k, (_, t) in terms.items()}, rate
                )
        finally:
            if pruning is not None and pruning.attached:
                pruning.detach()

    def _terms(
        self,
        classifier: nn.Module,
        x: Tensor,
        labels: Tensor,
        mean: Sequence[float],
        std: Sequence[float],
        augmentation: Augmentation,
    ) -> dict[str, tuple[float, Tensor]]:
        """Return weight and value of each term of the loss; terms of weight 0 are not computed."""
        settings, seen = self.settings, augmentation(x)
        terms = {'ce': (settings.ce_weight, F.cross_entropy(self._logits(classifier, seen, labels), labels))}
        if self.prior is not None and settings.bn_weight:
            terms['bn'] = (settings.bn_weight, self.prior(seen, mean, std))
        if settings.tv_weight:
            terms['tv'] = (settings.tv_weight, total_variation(x))
        if settings.l2_weight:
            terms['l2'] = (settings.l2_weight, x.norm())
        return terms

    def _logits(self, classifier: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16) if self.settings.amp else nullcontext():
            logits = classifier(x)
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(x):
            raise ValueError(
                f'the classifier must return logits (B, classes), got {getattr(logits, "shape", type(logits).__name__)}'
            )
        if int(labels.max()) >= logits.shape[1]:
            raise ValueError(f'label {int(labels.max())} is wanted, but the classifier has {logits.shape[1]} classes')
        return logits.to(x.dtype)

    @torch.no_grad()
    def _finish(
        self,
        classifier: nn.Module,
        state: InversionState,
        labels: Tensor,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> Inverted:
        """Look at the kept images once more, as they are and with pruning."""
        best = self.settings.keep == 'best'
        x = (state.best if best else state.x).detach().to(labels.device)
        recorder = TokenPruning(self.settings.prune_layers, self.settings.prune_ratios)
        has_tokens = True
        try:
            recorder.attach(classifier)
        except ValueError:
            if self.settings.prune_layers:
                raise
            has_tokens = False
        try:
            logits = self._logits(classifier, x, labels)
        finally:
            if has_tokens:
                recorder.detach()
        record = recorder.record
        if record is not None:
            record = TokenRecord(record.kept.cpu(), record.entered.cpu(), record.attention.cpu())
        return Inverted(
            to_pixels(x, mean, std).cpu(),
            F.cross_entropy(logits, labels, reduction='none').cpu(),
            (logits.argmax(1) == labels).cpu(),
            state.best_step if best else state.step,
            record,
        )


def _digest(classifier: nn.Module) -> str:
    return weights_sha256({name: torch.atleast_1d(value.float()) for name, value in classifier.state_dict().items()})


def _first_parameter(classifier: nn.Module) -> nn.Parameter:
    parameter = next(classifier.parameters(), None)
    if parameter is None:
        raise ValueError(f'this {type(classifier).__name__} has no parameters, so there is nothing to invert')
    return parameter


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode without gradients of its parameters, and give it back as it was."""
    modes = {module: module.training for module in model.modules()}
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval()
    for parameter in learned:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learned:
            parameter.requires_grad_(True)
        for module, mode in modes.items():
            module.training = mode
