"""Ranks from batches of training data."""

import copy
import json
import random
import shutil
from pathlib import Path

import mmlora  # noqa: F401  (first: a process of its own imports this file without conftest.py)

# isort: split
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import default_collate
from mmpretrain.models import VisionTransformer
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from mmlora.adapters import adapted_layers
from mmlora.apis import settle_ranks, train
from mmlora.apis.data_ranks import bare_model, training_batches
from mmlora.apis.rank_report import ranks_from_config
from mmlora.datasets.seeded import SeededDataset
from mmlora.engine import StableRankHook
from mmlora.models import VitSR_LoRA
from mmlora.ranks import RankTable, allocate, pieces_of
from mmlora.ranks.budget import Site
from mmlora.ranks.data_driven import component_scores, gradient_importance
from mmlora.registry import DATASETS, register

VIT = dict(
    arch=dict(embed_dims=16, num_layers=2, num_heads=4, feedforward_channels=32), img_size=32, patch_size=16,
    drop_rate=0.3, drop_path_rate=0.3,
)  # fmt: skip
READ: list[tuple[int, float]] = []


@register(DATASETS, bare=True)
class NoisyBlobs:
    """Images whose pixels are drawn anew at each reading, from the global generators as an augmentation does."""

    def __init__(self, n: int = 40) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> dict:
        noise = np.random.rand() + random.random()
        READ.append((int(index), noise))
        generator = torch.Generator().manual_seed(int(index))
        image = torch.randn(3, 32, 32, generator=generator) + noise
        return dict(inputs=image, data_samples=DataSample().set_gt_label(int(index) % 3))


@pytest.fixture(autouse=True)
def _forget():
    READ.clear()


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp('weights')
    torch.manual_seed(0)
    state = VisionTransformer(**VIT).state_dict()
    for name in state:  # some contrast between the layers
        if name.endswith('qkv.weight'):
            state[name] *= 1 + int(name.split('.')[1])
    torch.save(state, folder / 'vit.pth')
    torch.save({'state_dict': {f'backbone.{k}': v for k, v in state.items()}}, folder / 'whole.pth')
    return folder


def config(files, ranks='eva', budget=None, *, load_from=False, **kwargs) -> Config:
    backbone = dict(type='VitSR_LoRA', lora_ranks=ranks, rank_budget=budget or dict(mean_rank=4), **VIT)
    if load_from:
        kwargs['load_from'] = str(files / 'whole.pth')
    else:
        backbone['init_cfg'] = dict(type='Pretrained', checkpoint=str(files / 'vit.pth'))
    backbone.update(kwargs.pop('backbone', {}))
    head = dict(type='LinearClsHead', num_classes=3, in_channels=16, loss=dict(type='CrossEntropyLoss'))
    return Config({
        'model': dict(type='ImageClassifier', backbone=backbone, head=head,
                      train_cfg=dict(augments=[dict(type='Mixup', alpha=1.0)])),
        'data_preprocessor': dict(num_classes=3, mean=[0.5] * 3, std=[2.0] * 3, to_rgb=False),
        'default_scope': 'mmpretrain',
        'randomness': dict(seed=3),
        'train_dataloader': dict(batch_size=4, num_workers=0, dataset=dict(type='NoisyBlobs'),
                                 sampler=dict(type='DefaultSampler', shuffle=True)),
        'default_hooks': dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2)),
        'train_cfg': dict(by_epoch=False, max_iters=2),
        'optim_wrapper': dict(optimizer=dict(type='SGD', lr=0.1)),
        **kwargs,
    })  # fmt: skip


def first(cfg: Config) -> dict:
    return cfg.model.backbone


class TestMaths:
    def layers(self):
        torch.manual_seed(0)
        one, two = torch.nn.Linear(6, 9).double(), torch.nn.Linear(9, 4).double()
        return torch.nn.Sequential(one, torch.nn.Tanh(), two), {'a.qkv': one, 'b': two}

    def test_explained_variance_is_that_of_all_tokens(self):
        model, layers = self.layers()
        batches = [torch.randn(5, 7, 6, dtype=torch.float64) * torch.arange(1.0, 7) + 3 for _ in range(3)]
        pieces = pieces_of({'a.qkv': (9, 6), 'b': (4, 9)}, 'qv', 'slice')
        scores = component_scores(pieces, layers, [lambda x=x: model(x).sum() for x in batches])
        assert [p.name for p in pieces] == ['a.qkv.q', 'a.qkv.v', 'b'] and scores[0] == scores[1]
        x = torch.cat([b.flatten(0, 1) for b in batches])
        for own, seen in ((scores[0], x), (scores[2], torch.tanh(layers['a.qkv'](x)).detach())):
            squares = torch.linalg.svdvals(seen - seen.mean(0)) ** 2
            assert own == pytest.approx((squares / squares.sum()).tolist(), rel=1e-9, abs=1e-12)
        assert not layers['b']._forward_pre_hooks

    def test_gradient_importance_is_of_the_mean_gradient(self):
        model, layers = self.layers()
        batches = [torch.randn(5, 6, dtype=torch.float64) for _ in range(3)]
        pieces = pieces_of({'a.qkv': (9, 6), 'b': (4, 9)}, 'qv', 'slice')
        values = gradient_importance(pieces, layers, [lambda x=x: (model(x) ** 2).mean() for x in batches])
        sum((model(x) ** 2).mean() for x in batches).div(3).backward()
        own = (layers['a.qkv'].weight * layers['a.qkv'].weight.grad).abs().detach()
        other = (layers['b'].weight * layers['b'].weight.grad).abs().detach()
        expected = [float(own[:3].mean()), float(own[6:].mean()), float(other.mean())]
        assert values == pytest.approx(expected, rel=1e-12) and expected[0] != expected[1]

    @pytest.mark.parametrize(
        ('measure', 'step', 'match'),
        [
            (component_scores, lambda model: model[2](torch.randn(5, 9).double()).sum(), 'a.qkv is never called'),
            (component_scores, lambda model: model(torch.ones(5, 6).double()).sum(), 'a.qkv has inputs that do not'),
            (component_scores, lambda model: model(torch.full((5, 6), torch.nan).double()).sum(), 'not finite'),
            (gradient_importance, lambda model: model[0](torch.randn(5, 6).double()).sum(), 'b has no gradient'),
            (gradient_importance, lambda model: (model(torch.randn(5, 6).double()) * 0).sum(), 'zero or not finite'),
        ],
    )
    def test_nothing_to_go_by(self, measure, step, match):
        model, layers = self.layers()
        pieces = pieces_of({'a.qkv': (9, 6), 'b': (4, 9)}, 'qv')
        with pytest.raises(ValueError, match=match):
            measure(pieces, layers, [lambda: step(model)])


class TestSettle:
    @pytest.mark.parametrize('criterion', ['eva', 'gradient'])
    @pytest.mark.parametrize('rank_per', ['layer', 'slice'])
    @pytest.mark.parametrize('load_from', [False, True])
    def test_ranks_are_numbers_before_the_model_is_built(self, files, criterion, rank_per, load_from):
        cfg = config(files, criterion, load_from=load_from, backbone=dict(rank_per=rank_per))
        table = settle_ranks(cfg)
        rows = 6 if rank_per == 'slice' else 4
        assert len(table.rows) == rows and sum(row.rank for row in table.rows) == 4 * rows
        assert {row.criterion for row in table.rows} == {criterion} and table.budget == {'mean_rank': 4}
        assert len({row.rank for row in table.rows}) > 1, 'the data decide'
        assert 'rank_per' not in first(cfg) and 'rank_budget' not in first(cfg)
        model = MODELS.build({**first(cfg), 'init_cfg': None})
        assert isinstance(model, VitSR_LoRA) and model.rank_table.ranks == table.ranks
        assert set(adapted_layers(model)) == set(table.ranks)

    def test_weights_come_from_either_place(self, files):
        one, other = (settle_ranks(config(files, load_from=x)) for x in (False, True))
        assert one == other and one.sha256

    def test_the_best_components_win(self, files):
        """The values of the table are the sums of the components that the ranks take."""
        cfg = config(files, budget=dict(mean_rank=3))
        cfg.model.pop('train_cfg')  # no mixup, which draws from the generators
        table = settle_ranks(cfg)
        model, bare = bare_model(cfg := config(files), first(cfg), VitSR_LoRA)
        model.eval()
        layers = {name: bare.get_submodule(name) for name in table.ranks}
        pieces = pieces_of({n: tuple(layer.weight.shape) for n, layer in layers.items()}, 'qv')
        batches = [model.data_preprocessor(b, False) for b in training_batches(cfg, 3, 8)]
        scores = component_scores(pieces, layers, [lambda b=b: model(**b, mode='tensor') for b in batches])
        sites = [Site(0, p.cost, p.limit, s) for p, s in zip(pieces, scores, strict=True)]
        assert list(table.ranks.values()) == allocate(sites, {'mean_rank': 3})
        for row, own in zip(table.rows, scores, strict=True):
            assert row.value == pytest.approx(sum(own[: row.rank]), rel=1e-6)

    @pytest.mark.parametrize('criterion', ['eva', 'gradient'])
    def test_the_run_is_not_disturbed(self, files, criterion):
        torch.manual_seed(1), np.random.seed(1), random.seed(1)
        expected = torch.rand(3).tolist(), np.random.rand(), random.random()
        torch.manual_seed(1), np.random.seed(1), random.seed(1)
        cfg = config(files, criterion)
        model = copy.deepcopy(cfg.model.to_dict())
        settle_ranks(cfg)
        assert (torch.rand(3).tolist(), np.random.rand(), random.random()) == expected
        changed = cfg.model.to_dict()
        for settled in (model, changed):
            for name in ('lora_ranks', 'rank_budget'):
                settled['backbone'].pop(name, None)
        assert changed == model

    @pytest.mark.parametrize('criterion', ['eva', 'gradient'])
    def test_the_same_whatever_the_generators_and_workers(self, files, criterion):
        tables = []
        for seed, loader in ((0, {}), (7, dict(num_workers=2, persistent_workers=True, sampler=None))):
            torch.manual_seed(seed), np.random.seed(seed), random.seed(seed)
            cfg = config(files, criterion)
            cfg.train_dataloader.update(loader)
            tables.append(settle_ranks(cfg))
        assert tables[0] == tables[1]

    def test_another_seed_reads_other_images(self, files):
        settle_ranks(config(files))
        seen = list(READ)
        settle_ranks(config(files, randomness=dict(seed=4)))
        assert len(seen) == 32 and {i for i, _ in seen} != {i for i, _ in READ[32:]}
        assert len({i for i, _ in seen}) == 32, 'no image twice'

    @pytest.mark.parametrize(('batches', 'size', 'expected'), [(2, 4, 8), (3, 5, 15), (99, 4, 40)])
    def test_no_more_batches_than_asked_for(self, files, batches, size, expected):
        cfg = config(files, rank_batches=batches)
        cfg.train_dataloader.batch_size = size
        settle_ranks(cfg)
        assert len(READ) == expected

    def test_a_data_set_that_is_seeded_already(self, files):
        cfg = config(files)
        plain = settle_ranks(config(files))
        cfg.train_dataloader.dataset = dict(type='mmlora.SeededDataset', dataset=dict(type='NoisyBlobs'))
        assert settle_ranks(cfg) == plain
        cfg = config(files)
        assert isinstance(next(training_batches(cfg, 0, 1))['inputs'], list)
        cfg.train_dataloader.dataset = SeededDataset(iter([]))
        with pytest.raises(ValueError, match='samples by index'):
            next(training_batches(cfg, 0, 1))

    @pytest.mark.parametrize('form', ['name', 'function in a config', 'function'])
    def test_collated_as_the_runner_does(self, files, form):
        cfg = config(files)
        forms = {'name': dict(type='default_collate'), 'function in a config': dict(type=default_collate)}
        cfg.train_dataloader['collate_fn'] = forms.get(form, default_collate)
        assert next(training_batches(cfg, 0, 1))['inputs'].shape[0] == 4

    def test_a_checkpoint_with_a_table_wins(self, files, tmp_path):
        rows = [dict(module=f'layers.{i}.attn.{e}', rank=2) for i in range(2) for e in ('qkv', 'proj')]
        torch.save({'state_dict': {}, 'meta': {'mmlora': {'rank_table': dict(rows=rows)}}}, tmp_path / 'c.pth')
        cfg = config(files)
        settle_ranks(cfg, str(tmp_path / 'c.pth'))
        assert first(cfg).lora_ranks == [[2, 2], [2, 2]] and not READ

    @pytest.mark.parametrize('budget', [dict(params=1500, r_max=8), dict(share=0.15, multiple_of=2), dict(mean_rank=5)])
    def test_budgets(self, files, budget):
        table = settle_ranks(config(files, budget=budget))
        spent = sum(row.params for row in table.rows)
        size = sum(p.numel() for p in VisionTransformer(**VIT).parameters())
        assert spent <= budget.get('params', 10**9) and spent <= budget.get('share', 1) * size
        asked = budget.get('params') or budget.get('share', 0) * size or 32 * 4 * 5
        assert spent > 0.9 * asked, (spent, asked)

    def test_swin_and_adapted_backbones(self, files, tmp_path):
        from mmpretrain.models import SwinTransformer

        swin = dict(arch=dict(embed_dims=8, depths=[1, 2], num_heads=[1, 2]), img_size=32, window_size=2,
                    out_indices=(1,))  # fmt: skip
        torch.save(SwinTransformer(**swin).state_dict(), tmp_path / 'swin.pth')
        init = dict(type='Pretrained', checkpoint=str(tmp_path / 'swin.pth'))
        for backbone in (
            dict(type='SwinSR_LoRA', lora_ranks='eva', rank_budget=dict(mean_rank=3), init_cfg=init, **swin),
            dict(type='AdaptedBackbone', backbone=dict(type='SwinTransformer', init_cfg=init, **swin),
                 targets=['qkv', 'proj'], lora_ranks='eva', rank_budget=dict(mean_rank=3)),
        ):  # fmt: skip
            cfg = config(files)
            cfg.model.backbone = backbone
            cfg.model.neck = dict(type='GlobalAveragePooling')
            table = settle_ranks(cfg)
            assert sum(table.ranks.values()) == 18 and len(set(table.ranks.values())) > 1

    @pytest.mark.parametrize(
        ('change', 'match'),
        [
            (dict(rank_batches=0), 'rank_batches.*0'),
            (dict(rank_batches=True), 'rank_batches.*True'),
            (dict(train_dataloader=None), 'needs a train_dataloader'),
            (dict(train_dataloader=dict(dataset=dict(type='NoisyBlobs'))), 'a batch_size'),
            (dict(train_dataloader=dict(dataset=dict(type='NoisyBlobs', n=0), batch_size=2)), 'samples by index'),
        ],
    )
    def test_errors(self, files, change, match):
        with pytest.raises(ValueError, match=match):
            settle_ranks(config(files, **change))

    @pytest.mark.parametrize('criterion', ['eva', 'gradient'])
    def test_what_is_missing_is_said(self, files, criterion):
        with pytest.raises(ValueError, match=f"'{criterion}'.*needs a budget.*mean_rank"):
            settle_ranks(config(files, criterion, budget=dict(r_max=8)))
        assert not READ
        with pytest.raises(ValueError, match=f"'{criterion}' reads batches.*settle_ranks"):
            MODELS.build(first(config(files, criterion)))
        cfg = config(files, criterion)
        first(cfg).pop('init_cfg')
        with pytest.raises(ValueError, match=f"'{criterion}' needs the frozen weights.*load_from"):
            settle_ranks(cfg)
        first(cfg).init_cfg = dict(type='Pretrained', checkpoint=str(files / 'whole.pth'))
        with pytest.raises(ValueError, match="lacks .* weights of the backbone|nothing of .*prefix='backbone.'"):
            settle_ranks(cfg)


class TestRun:
    @pytest.mark.parametrize('criterion', ['eva', 'gradient', 'random@2', 'uniform', 'effective_rank'])
    def test_training_with_the_hook_alone(self, files, tmp_path, criterion):
        budget = dict(mean_rank=4)
        cfg = config(files, None, custom_hooks=[dict(type='StableRankHook', criterion=criterion, budget=budget)])
        first(cfg).pop('rank_budget')
        first(cfg)['rank_per'] = 'slice'
        runner = train(cfg, work_dir=str(tmp_path))
        table = RankTable.load(tmp_path / 'ranks.json')
        assert {row.criterion for row in table.rows} == {criterion} and len(table.rows) == 6
        layers = adapted_layers(runner.model.backbone)
        assert {name: layer.ranks for name, layer in layers.items() if name.endswith('qkv')} == {
            name: rank for name, rank in table.ranks.items() if name.endswith('qkv')
        }
        assert sum(row.rank for row in table.rows) == 24
        hook = next(h for h in runner.hooks if isinstance(h, StableRankHook))
        assert hook.table == table
        saved = torch.load(tmp_path / 'iter_2.pth', weights_only=True)['meta']['mmlora']
        assert RankTable.from_dict(saved['rank_table']) == table
        again = config(files, None)
        settle_ranks(again, str(tmp_path / 'iter_2.pth'))
        assert first(again).lora_ranks == first(runner.cfg).lora_ranks

    def test_the_run_draws_what_it_would_have_drawn(self, files, tmp_path):
        """Ranks given as numbers and the same ranks from data train to the same weights."""
        one = train(config(files), work_dir=str(tmp_path / 'data'))
        cfg = config(files, first(one.cfg).lora_ranks)
        first(cfg).pop('rank_budget')
        other = train(cfg, work_dir=str(tmp_path / 'numbers'))
        first_state, other_state = one.model.state_dict(), other.model.state_dict()
        assert all(torch.equal(first_state[key], other_state[key]) for key in first_state)


def _one_of_two(rank: int, folder: str) -> None:
    store = f'file://{folder}/store'
    torch.distributed.init_process_group('gloo', init_method=store, rank=rank, world_size=2)
    torch.manual_seed(rank)
    table = settle_ranks(config(Path(folder)))
    seen = len(READ)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        settle_ranks(config(Path(folder), rank_batches=0))
    said = dict(table=table.to_dict(), read=seen, error=str(caught.value))
    (Path(folder) / f'{rank}.json').write_text(json.dumps(said))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_one_process_measures_and_all_get_its_table(files, tmp_path):
    shutil.copy(files / 'vit.pth', tmp_path)
    torch.multiprocessing.start_processes(_one_of_two, (str(tmp_path),), nprocs=2, start_method='fork')
    one, two = (json.loads((tmp_path / f'{rank}.json').read_text()) for rank in (0, 1))
    assert one['table'] == two['table'] == settle_ranks(config(files)).to_dict()
    assert (one['read'], two['read']) == (32, 0)
    assert 'rank_batches' in one['error'] and 'the first process could not' in two['error']


class TestTool:
    def test_a_config_in_place_of_a_checkpoint(self, files):
        cfg = config(files)
        table, adapter = ranks_from_config(cfg, 'gradient', dict(params=2000), 'slice')
        assert adapter == dict(alpha=1.0, scaling='alpha/r', slices='qv', kind='lora') and len(table.rows) == 6
        assert first(cfg).lora_ranks == 'eva', 'the config is not changed'
        own, _ = ranks_from_config(cfg)
        assert {row.criterion for row in own.rows} == {'eva'}

    def test_errors(self, files):
        with pytest.raises(ValueError, match='numbers already.*3'):
            ranks_from_config(config(files, 3, backbone=dict(rank_budget=None)))
        with pytest.raises(ValueError, match='needs a criterion beside'):
            ranks_from_config(config(files), budget=dict(params=5))
        with pytest.raises(ValueError, match='0 adapted backbones'):
            ranks_from_config(Config(dict(model=dict(type='x'))), 'eva')
