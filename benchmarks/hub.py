"""LoRAs per minute: tasks of a hub trained K at once through banks, and one at a time as an ordinary adapted model.

Usage: ``python benchmarks/hub.py [--config CONFIG] [--loras 16] [--together 1 4 16] [--batch 16] [--rounds 3]``. The
ways alternate within one run and the best time of each counts. ``--clock cpu`` counts the time of this process alone,
for machines that others use too. Images are prepared before. The factors are checked to agree.
"""

import argparse
import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.config import Config

import mmlora  # noqa: F401
from mmlora.adapters import LoRAWeights, adapt_with, draw_lora, read_lora
from mmlora.adapters.targets import linear_names, select
from mmlora.apis.hub_members import build_frozen
from mmlora.apis.hub_plan import HubPlan, settle_hub
from mmlora.apis.hub_tasks import HubImages, Task, build_sources, draw_task, load_images, steps
from mmlora.apis.hub_training import Frozen, Recipe, train_tasks
from mmlora.randomness import derive_seed

ROOT = Path(__file__).resolve().parents[1]
CLOCKS = {'wall': time.perf_counter, 'cpu': time.process_time}
ORDINARY = 'one at a time, no bank'


def train_ordinary(frozen: Frozen, images: HubImages, task: Task, recipe: Recipe) -> LoRAWeights:
    """Train one task as an ordinary adapted model: what a bank has to equal."""
    def generator(what: str) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed(f'hub {what}', recipe.seed, task.number))

    model = copy.deepcopy(frozen.backbone)
    model.eval()
    sites = select(recipe.targets, linear_names(model))
    layers = adapt_with(model, draw_lora(model, sites, recipe.rank, recipe.slices, recipe.scaling, generator('lora')))
    own, device = replace(frozen, backbone=model), next(model.parameters()).device
    (one,) = load_images(images, [[(task.train[0], 0, 0)]])
    with torch.no_grad():
        width = own.features(one).shape[1]
    head, start = nn.Linear(width, len(task.classes)).to(device), generator('head')
    for parameter in head.parameters():
        drawn = torch.empty(parameter.shape, dtype=torch.float64).uniform_(-(width**-0.5), width**-0.5, generator=start)
        parameter.data.copy_(drawn)
    learned = [p for layer in layers.values() for p in layer.adapter_parameters().values()] + [*head.parameters()]
    optimizer, labels = torch.optim.Adam(learned, lr=recipe.optimizer['lr']), torch.tensor(task.train_labels).to(device)
    batches = steps([task], recipe.seed, recipe.batch_size, recipe.max_epochs)
    requests = [[(task.train[i], 0, part.epoch) for i in part.images]
                for (part,) in steps([task], recipe.seed, recipe.batch_size, recipe.max_epochs)]
    for (part,), data in zip(batches, load_images(images, requests), strict=True):
        optimizer.zero_grad()
        F.cross_entropy(head(own.features(data)), labels[part.images]).backward()
        nn.utils.clip_grad_norm_(learned, recipe.max_norm)
        optimizer.step()
    with torch.no_grad():  # Banks validate, too.
        for start in range(0, len(task.val), recipe.batch_size):
            (data,) = load_images(images, [[(ref, 0, 0) for ref in task.val[start : start + recipe.batch_size]]])
            head(own.features(data)).argmax(1)
    return read_lora(model)


def main() -> None:
    """Run the benchmark and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--config', default=str(ROOT / 'configs' / 'lora_recycle' / 'hub_vit-micro_glyphs-5way.py'))
    parser.add_argument('--loras', type=int, default=16)
    parser.add_argument('--together', type=int, nargs='+', default=[1, 4, 16])
    parser.add_argument('--batch', type=int, help='images of a task in a step')
    parser.add_argument('--epochs', type=int)
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--clock', choices=sorted(CLOCKS), default='wall')
    parser.add_argument('--device', help='such as cuda:0; by default a GPU where there is one')
    args = parser.parse_args()
    cfg = settle_hub(Config.fromfile(args.config))
    plan = HubPlan(**{**cfg.hub, 'cache': True, 'num_workers': 0})
    frozen, _ = build_frozen(cfg, args.device)
    images = HubImages(build_sources(plan.sources), cache=True)
    recipe = Recipe(plan.targets, plan.rank, cfg.optim_wrapper.optimizer, slices=plan.slices, scaling=plan.scaling,
                    max_norm=cfg.optim_wrapper.clip_grad.max_norm, batch_size=args.batch or plan.batch_size,
                    max_epochs=args.epochs or cfg.train_cfg.max_epochs, seed=cfg.randomness.seed)
    tasks = [draw_task(images.sources, number, recipe.seed, plan.n_way) for number in range(args.loras)]
    for task in tasks:
        for ref in [*task.train, *task.val]:
            images[ref, 0, 0]
    clock = CLOCKS[args.clock]

    def at_once(count: int) -> Sequence[LoRAWeights]:
        return [one.weights for start in range(0, len(tasks), count)
                for one in train_tasks(frozen, images, tasks[start : start + count], recipe)]

    ways: dict[str, Callable[[], Sequence[LoRAWeights]]] = {
        ORDINARY: lambda: [train_ordinary(frozen, images, task, recipe) for task in tasks]}
    ways |= {f'K = {count}': lambda count=count: at_once(count) for count in args.together}
    best: dict[str, float] = {}
    found: dict[str, Sequence[LoRAWeights]] = {}
    for _ in range(args.rounds):
        for name, way in ways.items():
            start = clock()
            found[name] = way()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            best[name] = min(best.get(name, float('inf')), clock() - start)
    where = next(frozen.backbone.parameters()).device
    print(f'{Path(args.config).stem}, batch {recipe.batch_size}, {recipe.max_epochs} epochs of '
          f'{len(tasks[0].train)} images; {where}, torch {torch.__version__}, {torch.get_num_threads()} threads, '
          f'{args.clock} time, best of {args.rounds}')
    print('| way | LoRAs per minute | ratio | largest difference of B | largest B |\n|---|---|---|---|---|')
    for name, spent in best.items():
        both = zip(found[name], found[ORDINARY], strict=True)
        difference = max((own[key].b - pair.b).abs().max().item() for own, other in both for key, pair in other.items())
        largest = max(pair.b.abs().max().item() for own in found[name] for pair in own.values())
        print(f'| {name} | {60 * len(tasks) / spent:.1f} | {best[ORDINARY] / spent:.2f} | {difference:.1e} | '
              f'{largest:.1e} |')


if __name__ == '__main__':
    main()
