"""Tests by episodes: each image encoded once, as ``EpisodeTestLoop`` does, against the images of each episode encoded.

Both see the same images, prepared before, and the same episodes, and must give the same accuracies and intervals.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.evaluator import Evaluator
from mmengine.model import BaseModel
from mmengine.registry import init_default_scope
from mmpretrain.registry import DATASETS, MODELS
from mmpretrain.structures import DataSample
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mmlora.engine.episode_loops import EpisodeTestLoop
from mmlora.episodes import Episode, draw_episode, positions_by_class
from mmlora.evaluation import mean_and_interval, prototype_accuracy
from mmlora.models.pretrained import PretrainedWeights

from ..core import Case, Comparison, Growth, Spread, remembered
from ..targets import Target

ABOUT = """
Few-shot tests by episodes: each image of the test set encoded once, as `EpisodeTestLoop` does, against the images of
each episode encoded. Accuracies and intervals must be identical. What can be won is the number of images that episodes
ask for over the number of images there are: both are counted, and the first is given as a multiple of the second. First
the test of `configs/lora_recycle/prototypes_vit-micro_glyphs-5way.py` as it is. Its target, ten times as fast, is an
aim.
"""

CONFIG = Path(__file__).resolve().parents[2] / 'configs' / 'lora_recycle' / 'prototypes_vit-micro_glyphs-5way.py'
WEIGHTS = 'mmlora://vit-micro_glyphs'
ONCE, EACH = 'each image once (ours)', 'the images of each episode'
ENCODED = 'images encoded'
CLIP = dict(embed_dims=768, num_layers=12, num_heads=12, feedforward_channels=3072)
CPU_LAYERS = 1
"""Of the 12, on a CPU: encoding takes nearly all of the time, whatever the depth."""


class Prepared(Dataset):
    """Images in memory, so that no time goes into reading or drawing them.

    Args:
        inputs: uint8 ``(3, H, W)`` each.
        labels: Their classes.
    """

    def __init__(self, inputs: Sequence[Tensor], labels: Sequence[int]) -> None:
        self.inputs, self.labels, self.metainfo = inputs, [int(label) for label in labels], {}

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, place: int) -> dict[str, Any]:
        return dict(inputs=self.inputs[place], data_samples=DataSample().set_gt_label(self.labels[place]))

    def get_gt_labels(self) -> list[int]:
        """Return the label of each image."""
        return self.labels


@dataclass
class Counted:
    """A model in evaluation, and how many images it has encoded in the last run."""

    model: BaseModel
    images: int = 0
    extract: Callable[[Tensor], tuple[Tensor, ...]] = field(init=False)

    def __post_init__(self) -> None:
        self.model.eval()
        self.extract, self.model.extract_feat = self.model.extract_feat, self

    def __call__(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the features of images, and count them."""
        self.images += len(inputs)
        return self.extract(inputs)


@dataclass(frozen=True)
class Bare:
    """What a loop needs of a runner: a model, and hooks, of which there are none."""

    model: BaseModel
    visualizer: SimpleNamespace = field(default_factory=SimpleNamespace)

    def call_hook(self, name: str, **kwargs: Any) -> None:
        """Do nothing."""


def by_episode(model: BaseModel, dataset: Prepared, metrics: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Test as :class:`~mmlora.engine.EpisodeTestLoop` does, but encode the images of each episode by themselves."""
    positions, found = positions_by_class(dataset.labels), {}

    @torch.no_grad()
    def accuracy(episode: Episode, metric: str) -> float:
        places = np.concatenate([episode.support, episode.query], axis=1)  # (n_way, n_shot + n_query)
        batch = pseudo_collate([dataset[int(place)] for place in places.ravel()])
        features = model.extract_feat(model.data_preprocessor(batch)['inputs'])[-1].float().cpu().numpy()
        support, query = np.split(features.reshape(*places.shape, -1), [episode.support.shape[1]], axis=1)
        return prototype_accuracy(support, query, metric)

    for own in metrics:
        size = [own[name] for name in ('n_way', 'n_shot', 'n_query')]
        episodes = (draw_episode(positions, *size, own.get('seed', 0), i) for i in range(own['n_episodes']))
        values = 100 * np.array([accuracy(episode, own['metric']) for episode in episodes])
        found[f'{own["prefix"]}/accuracy'], found[f'{own["prefix"]}/interval'] = mean_and_interval(values)
    return found


def side_by_side(
    title: str, model: BaseModel, dataset: Prepared, metrics: Sequence[Mapping[str, Any]], goals: Sequence[Target] = ()
) -> Comparison:
    """Return both ways to test a model by the episodes of some metrics."""
    counted = Counted(model)
    loader = DataLoader(dataset, batch_size=100, collate_fn=pseudo_collate)
    loop = EpisodeTestLoop(Bare(model), loader, Evaluator(list(metrics)))

    def case(name: str, test: Callable[[], Mapping[str, float]]) -> Case:
        encoded = 0

        def run() -> Mapping[str, float]:
            nonlocal encoded
            counted.images = 0
            found = test()
            encoded = counted.images
            return found

        def results(found: Mapping[str, float]) -> dict[str, Tensor]:
            return {key: torch.tensor(value, dtype=torch.float64) for key, value in found.items()}

        def facts(time: Spread) -> dict[str, str]:
            return {ENCODED: f'{encoded} ({encoded / len(dataset):.1f} times all)'}

        return remembered(name, run, results, facts)

    cases = [case(EACH, lambda: by_episode(model, dataset, metrics)), case(ONCE, loop.run)]
    number = sum(own['n_episodes'] for own in metrics)
    settings = ' and '.join(f'{own["n_episodes"]} episodes of {own["n_shot"]} shots' for own in metrics)
    note = f'{settings}, {metrics[0]["n_way"]} ways, {metrics[0]["n_query"]} queries; {len(dataset)} images.'
    return Comparison(title, cases, ONCE, EACH, 0.0, note, 1, warm_up=0, rate=('episodes per second', number),
                      targets=goals, peaks=False, long=True)


def letters(device: torch.device, quick: bool) -> Comparison:
    """Return the test of the config of vit-micro."""
    cfg = Config.fromfile(CONFIG)
    init_default_scope(cfg.default_scope)
    drawn = DATASETS.build(dict(cfg.test_dataloader.dataset, serialize_data=False))
    labels = drawn.get_gt_labels()
    chosen = [place for place, label in enumerate(labels) if label < 5][:40] if quick else range(len(labels))
    dataset = Prepared([drawn[place]['inputs'] for place in chosen], [labels[place] for place in chosen])
    model = MODELS.build({**cfg.model, 'data_preprocessor': cfg.data_preprocessor}).to(device)
    PretrainedWeights(WEIGHTS)(model.backbone)
    metrics = [dict(own, **(dict(n_query=3, n_episodes=2) if quick else {})) for own in cfg.test_evaluator]
    title = f'vit-micro, letters of scripts it has not seen, {len(set(dataset.labels))} classes'
    return side_by_side(title, model, dataset, metrics, [Target(ONCE, EACH, 1 / 10)])


def clip_like(device: torch.device, quick: bool) -> Comparison:
    """Return a test of a ViT-B/32 as CLIP's, with weights and images drawn at random: each class has a picture."""
    arch = CLIP if device.type == 'cuda' else dict(CLIP, num_layers=CPU_LAYERS)
    arch = dict(arch, embed_dims=24, num_heads=2, feedforward_channels=32) if quick else arch
    size, patch, classes, episodes = (32, 16, 5, 2) if quick else (224, 32, 5, 10)
    episodes = 600 if device.type == 'cuda' and not quick else episodes
    backbone = dict(type='VisionTransformer', arch=arch, img_size=size, patch_size=patch, pre_norm=True)
    torch.manual_seed(0)
    model = MODELS.build(dict(
        type='MetaClassifier', backbone=backbone, head=dict(type='PrototypeHead'),
        data_preprocessor=dict(mean=[128] * 3, std=[64] * 3))).to(device)
    pictures = torch.randint(256, (classes, 1, 3, size, size))
    noise = torch.randint(-128, 129, (classes, 20, 3, size, size))
    inputs = (pictures + noise).clamp(0, 255).to(torch.uint8).flatten(0, 1)
    labels = torch.arange(classes).repeat_interleave(20).tolist()
    metric = dict(type='mmlora.EpisodeAccuracy', n_way=5, n_shot=1, n_query=15, n_episodes=episodes, metric='cosine',
                  prefix='1-shot')
    title = f'ViT-B/32 as CLIP has it, {arch["num_layers"]} of 12 layers'
    return side_by_side(title, model, Prepared(list(inputs), labels), [metric])


def growing(quick: bool) -> Growth:
    """Return the accuracies of more and more episodes from features that are there: what comes after encoding."""
    sizes, width = ((2, 4), 8) if quick else ((100, 200, 400, 800), 768)
    labels = np.arange(20).repeat(20)
    features = np.random.default_rng(0).normal(size=(len(labels), width)).astype(np.float32)
    positions = positions_by_class(labels)

    def accuracies(count: int) -> None:
        for number in range(count):
            episode = draw_episode(positions, 5, 1, 15, 0, number)
            prototype_accuracy(features[episode.support], features[episode.query], 'cosine')

    cases = {n: Case(f'{n} episodes', lambda n=n: accuracies(n)) for n in sizes}
    return Growth('5-way 1-shot episodes on cached features, 15 queries', 'episodes', cases, 2 if quick else 5)


def suite(device: torch.device, quick: bool) -> Iterator[Comparison | Growth]:
    """Compare on a small model with many episodes, and on a large one with few."""
    for make in (letters, clip_like):
        yield make(device, quick)
    yield growing(quick)
