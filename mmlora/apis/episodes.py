"""Few-shot benchmark on Glyphs: how well frozen features tell letters of unseen scripts apart."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS

from ..datasets import Glyphs
from ..datasets.split_files import load_split
from ..evaluation import episode_accuracies, mean_and_interval
from ..io.weights import load_state_dict
from ..progress import tidy_terminal, tracked

BATCH_SIZE = 256


@dataclass(frozen=True)
class Row:
    """One line of the benchmark's table.

    Attributes:
        name: What the features come from.
        accuracy: Mean over episodes, in percent.
        interval: Half width of its 95 % interval, in percent.
        n_episodes: Number of episodes.
    """

    name: str
    accuracy: float
    interval: float
    n_episodes: int

    def __str__(self) -> str:
        return f'{self.name:<16} {self.accuracy:5.1f} +- {self.interval:.1f} %  ({self.n_episodes} episodes)'


def benchmark_images(split: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Draw the images of the benchmark.

    Args:
        split: ``'val'`` or ``'test'``.

    Returns:
        uint8 ``(N, 32, 32, 3)``, int64 ``(N,)`` labels, and the names of the classes.
    """
    dataset = Glyphs(split, **load_split('glyphs/protocol.json')['images'])
    images = np.stack([dataset[i]['img'] for i in range(len(dataset))])
    return images, dataset.get_gt_labels(), dataset.metainfo['classes']


def build_backbone(cfg: Config, checkpoint: str | None = None) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Build backbone and data preprocessor of a config.

    Args:
        cfg: A whole config.
        checkpoint: Weights of the backbone: a bare backbone's or a training checkpoint's; None leaves the network
            untrained, drawn from seed 0.

    Returns:
        The backbone, in evaluation mode, and the preprocessor.

    Raises:
        RuntimeError: The weights do not fit the backbone exactly.
    """
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    preprocessor = {'type': 'mmpretrain.ClsDataPreprocessor', **cfg.get('data_preprocessor', {})}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = MODELS.build({**cfg.model.backbone, 'init_cfg': None})
        backbone.init_weights()
    if checkpoint is not None:
        backbone.load_state_dict(backbone_weights(checkpoint))
    backbone.eval()
    return backbone, MODELS.build(preprocessor)


def backbone_weights(checkpoint: str) -> dict[str, torch.Tensor]:
    """Return the weights of the backbone in a checkpoint of a classifier or of a bare backbone.

    Args:
        checkpoint: Anything that the checkpoint loader reads.
    """
    state = load_state_dict(checkpoint)
    prefixed = {key.removeprefix('backbone.'): value for key, value in state.items() if key.startswith('backbone.')}
    return prefixed or state


@torch.inference_mode()
def embed(images: np.ndarray, backbone: torch.nn.Module, preprocessor: torch.nn.Module) -> np.ndarray:
    """Return the backbone's last feature of each image.

    Args:
        images: uint8 ``(N, H, W, 3)``.
        backbone: Gives a tuple whose last entry is ``(B, D)``.
        preprocessor: Normalises a batch.

    Returns:
        float32 ``(N, D)``.
    """
    features = []
    for start in tracked(range(0, len(images), BATCH_SIZE), 'embed batch'):
        batch = torch.from_numpy(images[start : start + BATCH_SIZE]).permute(0, 3, 1, 2)  # (B, H, W, C) -> (B, C, H, W)
        features.append(backbone(preprocessor({'inputs': batch})['inputs'])[-1].float().numpy())
    return np.concatenate(features)


def raw_pixels(images: np.ndarray) -> np.ndarray:
    """Return the grey values as features, float32 ``(N, H * W)`` in 0..1."""
    return images[..., 0].reshape(len(images), -1).astype(np.float32) / 255


@tidy_terminal()
def glyph_benchmark(cfg: Config, checkpoint: str, split: str = 'test', n_episodes: int | None = None) -> list[Row]:
    """Compare trained features, the same network untrained, and raw pixels.

    Features of networks are compared by cosine, pixels by Euclidean distance (for pixels the two differ by a point).

    Args:
        cfg: The config of the pre-training.
        checkpoint: Weights of the backbone.
        split: ``'val'`` or ``'test'``.
        n_episodes: Take the first so many of the committed episodes; None takes all.

    Returns:
        Three rows.
    """
    images, labels, classes = benchmark_images(split)
    episodes = dict(load_split('glyphs/protocol.json')['episodes'])
    episodes['n_episodes'] = n_episodes or episodes['n_episodes']
    sources: dict[str, tuple[Callable[[], np.ndarray], str]] = {
        'trained': (lambda: embed(images, *build_backbone(cfg, checkpoint)), 'cosine'),
        'untrained': (lambda: embed(images, *build_backbone(cfg)), 'cosine'),
        'raw pixels': (lambda: raw_pixels(images), 'euclidean'),
    }
    rows = []
    for name, (features, metric) in sources.items():
        values = 100 * episode_accuracies(features(), labels, metric=metric, classes=classes, **episodes)
        rows.append(Row(name, *mean_and_interval(values), len(values)))
    return rows
