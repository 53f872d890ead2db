"""Gives a generator of LoRAs the statistics of its bank before the first step."""

from typing import Any

from mmengine.dataset import pseudo_collate
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ...datasets.episodes import EpisodeSampler
from ...models.generators import EpisodicGenerator, LoRAGenerator
from ...models.generators.storage import storage_line
from ...registry import HOOKS, register
from ..adaptation import unwrap_model
from ..base_weights import base_sha256


@register(HOOKS)
class FitGeneratorHook(Hook):
    """Fit codec and conditions, and generators of closed form as a whole; then log what all take to store.

    The weights are loaded by then. A run that is resumed has it behind it. All processes see the same data. A generator
    that learns through a backbone is bound to its weights: LoRAs of a bank must stand on them.

    Args:
        num_episodes: With an ``EpisodicGenerator``: support sets over which conditions are standardised, at least 2.

    Raises:
        ValueError: There are too few.
    """

    priority = 'LOWEST'

    def __init__(self, num_episodes: int = 32) -> None:
        if isinstance(num_episodes, bool) or not isinstance(num_episodes, int) or num_episodes < 2:
            raise ValueError(f'num_episodes must be a whole number of at least 2, got {num_episodes!r}')
        self.num_episodes = num_episodes

    def before_train(self, runner: Runner) -> None:
        """Fit; see the class.

        Raises:
            TypeError: The model is no generator, or the training data do not fit it.
            ValueError: The LoRAs of the bank stand on other weights than those of the backbone.
        """
        model, loader = unwrap_model(runner.model), runner.train_dataloader
        if not isinstance(model, LoRAGenerator | EpisodicGenerator):
            raise TypeError(f'FitGeneratorHook is for generators of LoRAs, got a {type(model).__name__}')
        dataset = loader.dataset
        if not runner._resume:
            if isinstance(model, EpisodicGenerator):
                model.generator.codec.bind(base_sha256(model.backbone))
                bank = dataset.bank_data() if hasattr(dataset, 'bank_data') else {}
                model.fit_bank(**bank)
                model.fit_conditions([_support(runner, number) for number in range(self.num_episodes)])
            elif hasattr(dataset, 'fit_data'):
                device = model.codec.mean.device
                data = dataset.fit_data()
                model.fit(**{name: _to(value, device) for name, value in data.items()})
            else:
                raise TypeError(f'{type(model).__name__} learns from a LoRABankDataset, got a '
                                f'{type(dataset).__name__}')
        banks = getattr(dataset, 'banks', None)
        generator = getattr(model, 'generator', model)
        runner.logger.info(storage_line(generator, sum(len(task.checkpoints) for task in banks.tasks) if banks else 0))


def _support(runner: Runner, number: int) -> tuple[Any, Any]:
    """Return the prepared support images of an episode, and their labels.

    Raises:
        TypeError: The batches are no episodes.
    """
    model, loader = unwrap_model(runner.model), runner.train_dataloader
    sampler = loader.batch_sampler
    if not isinstance(sampler, EpisodeSampler):
        raise TypeError('EpisodicGenerator learns from batches of an EpisodeSampler, got '
                        f'{type(sampler).__name__}')
    items = [loader.dataset[index] for index in sampler.indices(number) if index.place.support]
    data = model.data_preprocessor(pseudo_collate(items), False)
    images = data['inputs']
    return images, images.new_tensor([int(sample.gt_label) for sample in data['data_samples']]).long()


def _to(value: Any, device: Any) -> Any:
    return {key: one.to(device) for key, one in value.items()} if isinstance(value, dict) else value.to(device)
