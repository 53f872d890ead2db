"""Chooses alpha and beta of Tip-Adapter on validation data."""

from collections.abc import Sequence

import torch
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import EpochBasedTrainLoop, Runner

from ...models.clip.methods.tip_adapter import TipAdapter, check_weights
from ...registry import HOOKS, register
from ..adaptation import unwrap_model
from ..feature_encoding import encode, test_context
from ..protocol import describe_data, same_data


@register(HOOKS)
class TipAdapterSearchHook(Hook):
    """Set alpha and beta of ``TipAdapter`` to the best ones for the validation data, after the last step.

    The last checkpoint holds them. Test data are refused.

    Args:
        alphas: The weights of the cache to try.
        betas: The sharpnesses to try.

    Raises:
        ValueError: There is nothing to try, or a number is out of range.
    """

    priority = 'NORMAL'  # Before the checkpoint is saved.

    def __init__(self, alphas: Sequence[float], betas: Sequence[float]) -> None:
        check_weights(alphas, betas)
        self.alphas, self.betas = tuple(alphas), tuple(betas)

    def before_train(self, runner: Runner) -> None:
        """Check the model and the data.

        Raises:
            TypeError: The model is no ``TipAdapter``.
            ValueError: There are no validation data, or they are the test data; or weights are averaged.
        """
        model = unwrap_model(runner.model)
        if not isinstance(model, TipAdapter):
            raise TypeError(f'TipAdapterSearchHook is for TipAdapter, and the model is a {type(model).__name__}: leave '
                            'it out of custom_hooks')
        if any(isinstance(hook, EMAHook) for hook in runner.hooks):
            raise ValueError('the checkpoint would hold averaged weights, and alpha and beta that were not chosen for '
                             'them: leave EMAHook or TipAdapterSearchHook out of custom_hooks')
        if runner.val_loop is None:
            raise ValueError('TipAdapterSearchHook needs validation data: give val_dataloader, val_cfg and '
                             'val_evaluator, or leave it out of custom_hooks')
        if not runner.cfg.get('test_dataloader'):
            return
        val, test = (describe_data((runner.cfg.get(f'{part}_dataloader') or {}).get('dataset'), loader.dataset)
                     for part, loader in (('val', runner.val_dataloader), ('test', runner.test_dataloader)))
        if same_data(val, test):
            raise ValueError('val_dataloader holds the test data: alpha and beta that were chosen on them would make '
                             'the test result none. Give val_dataloader images of its own, or leave '
                             'TipAdapterSearchHook out of custom_hooks')

    def after_train_epoch(self, runner: Runner) -> None:
        """Search, after the last epoch of a loop that counts epochs."""
        if isinstance(runner.train_loop, EpochBasedTrainLoop) and self.is_last_train_epoch(runner):
            self._search(runner)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Search, after the last iteration of a loop that counts iterations."""
        if not isinstance(runner.train_loop, EpochBasedTrainLoop) and self.is_last_train_iter(runner):
            self._search(runner)

    def _search(self, runner: Runner) -> None:
        model, loader = unwrap_model(runner.model), runner.val_dataloader
        context = test_context(runner.val_loop.fp16)
        features, labels = [], []
        for _, some, samples in encode(model, loader, list(range(len(loader.dataset))), context, runner.logger.info):
            if any('gt_label' not in sample or len(sample.gt_label) != 1 for sample in samples):
                raise ValueError('TipAdapterSearchHook counts images that are named right, so each must have one label')
            features.append(some)
            labels += [sample.gt_label for sample in samples]
        with torch.no_grad():
            alpha, beta, accuracy = model.search(torch.cat(features), torch.cat(labels), self.alphas, self.betas)
        runner.logger.info(f'Tip-Adapter: alpha={alpha:g} and beta={beta:g} are the best of {len(self.alphas)} x '
                           f'{len(self.betas)} on the validation data, accuracy {accuracy:.2f}')
