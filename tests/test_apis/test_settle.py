"""Ranks are settled before a model is built."""

import copy
import csv
import json

import pytest
import tiny
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from mmpretrain.models import SwinTransformer, VisionTransformer
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch.utils.data import Dataset

from mmlora.adapters import adapted_layers
from mmlora.apis import parse_budget, ranks_from_checkpoint, settle_ranks
from mmlora.engine import StableRankHook
from mmlora.engine.adaptation import check_scalings, describe_adaptation
from mmlora.io.checkpoint import load_checkpoint
from mmlora.models import VitSR_LoRA
from mmlora.ranks import RankTable

ARCH = dict(embed_dims=16, num_layers=2, num_heads=4, feedforward_channels=32)
VIT = dict(arch=ARCH, img_size=32, patch_size=16)
SWIN = dict(arch=dict(embed_dims=8, depths=[1, 2], num_heads=[1, 2]), img_size=32, window_size=2, out_indices=(1,))


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Return paths of a bare ViT, a whole classifier and a bare Swin."""
    folder = tmp_path_factory.mktemp('weights')
    torch.manual_seed(0)
    vit = VisionTransformer(**VIT).state_dict()
    paths = {name: str(folder / f'{name}.pth') for name in ('vit', 'whole', 'swin')}
    torch.save(vit, paths['vit'])
    torch.save({'state_dict': {f'backbone.{k}': v for k, v in vit.items()}}, paths['whole'])
    torch.save(SwinTransformer(**SWIN).state_dict(), paths['swin'])
    return paths


def config(backbone: dict, **kwargs) -> Config:
    model = dict(
        type='ImageClassifier',
        backbone=backbone,
        head=dict(type='LinearClsHead', num_classes=3, in_channels=16, loss=dict(type='CrossEntropyLoss')),
    )
    return Config(dict(model=model, default_scope='mmpretrain', **kwargs))


def pretrained(path: str) -> dict:
    return dict(type='Pretrained', checkpoint=path)


def ranks_of(model: torch.nn.Module) -> dict[str, int]:
    return {n.removeprefix('backbone.'): max(layer.ranks.values()) for n, layer in adapted_layers(model).items()}


class TestSettle:
    def test_from_init_cfg(self, files):
        cfg = config(dict(type='VitSR_LoRA', lora_ranks='stable_rank', init_cfg=pretrained(files['vit']), **VIT))
        table = settle_ranks(cfg)
        nested = cfg.model.backbone.lora_ranks
        assert len(nested) == 2 and all(isinstance(r, int) for pair in nested for r in pair)
        assert cfg.rank_table['rows'][3]['rank'] == nested[1][1]
        assert table == RankTable.from_dict(cfg.rank_table) and table.rows[0].criterion == 'stable_rank'
        del cfg.model.backbone['init_cfg']
        assert ranks_of(MODELS.build(cfg.model)) == table.ranks
        assert 'stable_rank' not in str(cfg.model.backbone), 'the dumped config holds numbers'

    def test_the_default_of_the_backbone_is_kept(self):
        cfg = config(dict(type='AdaptedBackbone', backbone=dict(type='VisionTransformer', **VIT), targets=['qkv']))
        assert settle_ranks(cfg) is None
        assert set(ranks_of(MODELS.build(cfg.model)).values()) == {8}

    def test_the_budget_of_the_backbone_is_spent_once(self, files):
        backbone = dict(type='VitSR_LoRA', rank_budget=dict(mean_rank=2), init_cfg=pretrained(files['vit']), **VIT)
        cfg = config(backbone)
        assert sum(settle_ranks(cfg).ranks.values()) == 8
        assert sum(ranks_of(MODELS.build(cfg.model)).values()) == 8

    @pytest.mark.parametrize('kind', [VitSR_LoRA, 'mmlora.models.backbones.vit_sr_lora.VitSR_LoRA'])
    @pytest.mark.parametrize('hook', [StableRankHook, 'mmlora.engine.hooks.stable_rank_hook.StableRankHook'])
    def test_types_of_lazy_configs(self, files, kind, hook):
        cfg = config(
            dict(type=kind, init_cfg=pretrained(files['vit']), **VIT),
            custom_hooks=[dict(type=hook, budget=dict(mean_rank=2))],
        )
        assert sum(settle_ranks(cfg).ranks.values()) == 8

    def test_a_backbone_below_another_name(self, files):
        inner = dict(type='VitSR_LoRA', init_cfg=pretrained(files['vit']), **VIT)
        cfg = Config(dict(model=dict(type='x', parts=[dict(type='y', student=inner)])))
        assert len(settle_ranks(cfg).ranks) == 4 and len(cfg.model.parts[0].student.lora_ranks) == 2

    def test_two_adapted_backbones_need_numbers(self, files):
        inner = dict(type='VitSR_LoRA', init_cfg=pretrained(files['vit']), **VIT)
        with pytest.raises(ValueError, match='2 adapted backbones'):
            settle_ranks(Config(dict(model=dict(type='x', a=inner, b=dict(inner, lora_ranks=3)))))
        numbers = dict(type='x', a=dict(inner, lora_ranks=2), b=dict(inner, lora_ranks=3))
        assert settle_ranks(Config(dict(model=numbers))) is None

    def test_from_load_from(self, files):
        cfg = config(dict(type='mmlora.VitSR_LoRA', **VIT), load_from=files['whole'])
        expected = settle_ranks(config(dict(type='VitSR_LoRA', init_cfg=pretrained(files['vit']), **VIT))).ranks
        assert settle_ranks(cfg).ranks == expected

    def test_load_from_is_read_after_init_cfg(self, files, tmp_path):
        state = torch.load(files['whole'], weights_only=True)
        state = state.get('state_dict', state)
        for key in state:
            if key.endswith('attn.proj.weight'):
                state[key][:, 1:] = 0
        torch.save(state, tmp_path / 'other.pth')
        backbone = dict(type='VitSR_LoRA', init_cfg=pretrained(files['vit']), **VIT)
        ranks = settle_ranks(config(backbone, load_from=str(tmp_path / 'other.pth'))).ranks
        assert {rank for name, rank in ranks.items() if name.endswith('proj')} == {1}
        state['backbone.layers.0.attn.proj.lora_A'] = torch.zeros(1, 1)
        torch.save(state, tmp_path / 'published.pth')
        cfg = config(backbone, load_from=str(tmp_path / 'published.pth'))
        assert settle_ranks(cfg).ranks == settle_ranks(config(backbone)).ranks != ranks

    def test_the_hook_gives_criterion_and_budget(self, files):
        hook = dict(type='StableRankHook', budget=dict(mean_rank=3))
        backbone = dict(type='VitSR_LoRA', init_cfg=pretrained(files['vit']), **VIT)
        table = settle_ranks(config(backbone, custom_hooks=[dict(type='EMAHook'), hook]))
        assert sum(table.ranks.values()) == 12 and table.budget == {'mean_rank': 3}

    def test_swin(self, files):
        cfg = config(dict(type='SwinSR_LoRA', init_cfg=pretrained(files['swin']), **SWIN))
        settle_ranks(cfg)
        assert [len(stage) for stage in cfg.model.backbone.lora_ranks] == [1, 2]
        cfg.model.backbone.pop('init_cfg')
        MODELS.build(cfg.model.backbone)

    @pytest.mark.parametrize('inner', ['vit', 'swin'])
    def test_adapted_backbone(self, files, inner):
        kind, kwargs = {'vit': ('VisionTransformer', VIT), 'swin': ('SwinTransformer', SWIN)}[inner]
        backbone = dict(
            type='AdaptedBackbone',
            backbone=dict(type=kind, init_cfg=pretrained(files[inner]), **kwargs),
            targets=['qkv', 'proj', 'ffn.layers.0.0'],
            lora_ranks='stable_rank',
        )
        cfg = config(backbone)
        table = settle_ranks(cfg)
        assert cfg.model.backbone.lora_ranks == table.ranks
        cfg.model.backbone.backbone.pop('init_cfg')
        assert ranks_of(MODELS.build(cfg.model.backbone)) == table.ranks

    def test_ranks_in_the_config_stay(self):
        cfg = config(dict(type='VitSR_LoRA', lora_ranks=[[1, 2], [3, 4]], **VIT))
        before = copy.deepcopy(cfg.to_dict())
        assert settle_ranks(cfg) is None and cfg.to_dict() == before

    def test_a_table_is_dropped_when_the_ranks_were_changed_by_hand(self, files):
        cfg = config(dict(type='VitSR_LoRA', init_cfg=pretrained(files['vit']), **VIT))
        settle_ranks(cfg)
        settle_ranks(cfg)
        assert cfg.rank_table, 'a dumped config is settled again'
        cfg.model.backbone.lora_ranks[0][0] += 1
        settle_ranks(cfg)
        assert 'rank_table' not in cfg

    def test_a_config_without_adapters(self):
        assert settle_ranks(config(dict(type='VisionTransformer', **VIT))) is None

    @pytest.mark.parametrize('asked', ['stable_rank', [[1, 1], [1, 1]], None])
    def test_a_checkpoint_with_a_table_wins(self, files, tmp_path, asked):
        ranks = {'layers.0.attn.qkv': 5, 'layers.0.attn.proj': 6, 'layers.1.attn.qkv': 7, 'layers.1.attn.proj': 8}
        rows = [dict(module=m, rank=r) for m, r in ranks.items()]
        torch.save({'state_dict': {}, 'meta': {'mmlora': {'rank_table': dict(rows=rows)}}}, tmp_path / 'c.pth')
        cfg = config(dict(type='VitSR_LoRA', lora_ranks=asked, **VIT))
        assert settle_ranks(cfg, str(tmp_path / 'c.pth')).ranks == ranks
        assert cfg.model.backbone.lora_ranks == [[5, 6], [7, 8]]

    def test_a_symbolic_rank_without_a_source(self):
        with pytest.raises(ValueError, match='init_cfg'):
            settle_ranks(config(dict(type='VitSR_LoRA', lora_ranks='stable_rank', **VIT)))

    def test_a_table_that_does_not_fit(self, files):
        with pytest.raises(ValueError, match='has 12 entries, the backbone has 2'):
            settle_ranks(config(dict(type='VitSR_LoRA', lora_ranks='in21k-vit-b', **VIT)))
        torch.save({'meta': {'mmlora': {'rank_table': {'rows': [{'module': 'a'}]}}}}, files['vit'] + '.bad')
        with pytest.raises(ValueError, match='row 0'):
            settle_ranks(config(dict(type='VitSR_LoRA', **VIT)), files['vit'] + '.bad')


class Images(Dataset):
    metainfo = dict(classes=('a', 'b', 'c'))

    def __len__(self):
        return 8

    def __getitem__(self, i):
        generator = torch.Generator().manual_seed(i)
        return dict(
            inputs=torch.randint(0, 255, (3, 32, 32), generator=generator, dtype=torch.uint8),
            data_samples=DataSample().set_gt_label(i % 3),
        )


def run(cfg: Config, work_dir, epochs: int = 2, **kwargs) -> Runner:
    collate = dict(type='default_collate')
    runner = Runner(
        model=cfg.model,
        work_dir=str(work_dir),
        cfg=cfg,
        train_dataloader=dict(
            dataset=Images(), batch_size=4, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True),
            collate_fn=collate,
        ),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.01)),
        custom_hooks=cfg.custom_hooks,
        default_scope='mmpretrain',
        experiment_name=f'{work_dir.name}_{epochs}',
        **kwargs,
    )  # fmt: skip
    runner.train()
    return runner


class TestHook:
    def config(self, files, **kwargs):
        backbone = dict(type='VitSR_LoRA', init_cfg=pretrained(files['vit']), **VIT)
        cfg = config(backbone, custom_hooks=[dict(type='StableRankHook', **kwargs)])
        settle_ranks(cfg)
        return cfg

    def test_reports_exports_saves_and_tracks(self, files, work_dir):
        cfg = self.config(files)
        runner = run(cfg, work_dir)
        table = RankTable.load(work_dir / 'ranks.json')
        assert table.ranks == ranks_of(runner.model)
        assert (work_dir / 'ranks.png').stat().st_size > 5000 and (work_dir / 'ranks.csv').is_file()
        assert str(cfg.model.backbone.lora_ranks) in (work_dir / 'ranks_config.py').read_text()
        meta = load_checkpoint(str(work_dir / 'epoch_2.pth'))['meta']
        assert RankTable.from_dict(meta['mmlora']['rank_table']) == table
        rows = list(csv.DictReader((work_dir / 'stable_ranks.csv').open()))
        assert [(r['epoch'], r['module']) for r in rows] == [(str(e), m) for e in (1, 2) for m in table.ranks]
        for row, expected in zip(rows[4:], table.rows, strict=True):
            assert float(row['weight']) == pytest.approx(expected.value, rel=1e-9)
            layer = runner.model.backbone.get_submodule(row['module'])
            s = torch.linalg.svdvals(layer.delta().detach().double())
            assert float(row['change']) == pytest.approx(float((s**2).sum() / s[0] ** 2), rel=1e-4)
            relative = float(layer.delta().norm() / layer.weight.norm())
            assert float(row['relative_norm']) == pytest.approx(relative, rel=1e-4) and relative > 0
        log = next(work_dir.glob('*/*.log')).read_text()
        assert 'layers.1.attn.proj' in log and 'mean rank' in log
        scalars = next(work_dir.glob('*/vis_data/scalars.json')).read_text()
        assert 'stable_rank/change' in scalars

    def test_tracks_iterations(self, files, work_dir):
        run(self.config(files, by_epoch=False, interval=2), work_dir, 2)
        rows = list(csv.DictReader((work_dir / 'stable_ranks.csv').open()))
        assert [row['iter'] for row in rows] == [i for i in '24' for _ in range(4)]

    def test_a_backbone_below_another_name(self, files, work_dir):
        cfg = self.config(files)
        runner = run(cfg, work_dir, 1)
        wrapped = torch.nn.ModuleDict({'student': runner.model})
        about = describe_adaptation(wrapped, cfg.rank_table)
        assert about['rank_table'] == cfg.rank_table
        assert list(about['ranks'])[0] == 'student.backbone.layers.0.attn.qkv'

    def test_a_resumed_run_goes_on_in_the_same_track(self, files, work_dir):
        run(self.config(files), work_dir, 1)
        cfg = self.config(files)
        run(cfg, work_dir, 3, resume=True, load_from=str(work_dir / 'epoch_1.pth'))
        epochs = [r['epoch'] for r in csv.DictReader((work_dir / 'stable_ranks.csv').open())]
        assert epochs == [e for e in '123' for _ in range(4)]

    def test_ranks_of_zero_leave_nothing_to_track(self, files, work_dir):
        cfg = self.config(files)
        cfg.model.backbone.lora_ranks = 0
        cfg.pop('rank_table')
        run(cfg, work_dir, 1)
        assert set(RankTable.load(work_dir / 'ranks.json').ranks.values()) == {0}
        assert not (work_dir / 'stable_ranks.csv').exists()

    def test_the_table_must_fit_the_loaded_weights(self, files, work_dir):
        cfg = self.config(files)
        cfg.rank_table['rows'][2]['value'] += 1.0
        with pytest.raises(ValueError, match=r'other weights.*layers.1.attn.qkv.*strict=False'):
            run(cfg, work_dir)
        cfg.custom_hooks[0]['strict'] = False
        run(cfg, work_dir, 1)

    def test_the_table_must_fit_the_model(self, files, work_dir):
        cfg = self.config(files)
        cfg.rank_table['rows'][0]['rank'] += 1
        with pytest.raises(ValueError, match='layers.0.attn.qkv has ranks'):
            run(cfg, work_dir)

    def test_a_model_without_adapters(self, files, work_dir):
        cfg = config(dict(type='VisionTransformer', **VIT), custom_hooks=[dict(type='StableRankHook')])
        with pytest.raises(ValueError, match='needs one adapted backbone.*has 0'):
            run(cfg, work_dir)

    @pytest.mark.parametrize(('kwargs', 'match'), [(dict(criterion='x'), "'x'"), (dict(interval=-1), '-1')])
    def test_bad_arguments(self, kwargs, match):
        from mmpretrain.registry import HOOKS

        with pytest.raises(ValueError, match=match):
            HOOKS.build(dict(type='StableRankHook', **kwargs))


class TestAdaptation:
    """What a checkpoint says of how the model was adapted."""

    def model(self, **kwargs):
        return MODELS.build(config(dict(type='VitSR_LoRA', **{'lora_ranks': [[2, 0], [2, 3]], **kwargs, **VIT})).model)

    def test_rank_zero_is_part_of_the_table(self, tmp_path):
        about = describe_adaptation(self.model())
        assert about['ranks']['backbone.layers.0.attn.qkv'] == {'q': 2, 'v': 2}
        assert 'backbone.layers.0.attn.proj' not in about['ranks']
        torch.save({'state_dict': {}, 'meta': {'mmlora': about}}, tmp_path / 'c.pth')
        cfg = config(dict(type='VitSR_LoRA', lora_ranks=1, **VIT))
        settle_ranks(cfg, str(tmp_path / 'c.pth'))
        assert cfg.model.backbone.lora_ranks == [[2, 0], [2, 3]]

    def test_another_scaling_is_refused(self):
        about = json.loads(json.dumps(describe_adaptation(self.model(lora_alpha=8))))
        check_scalings(self.model(lora_alpha=8), about)
        check_scalings(self.model(), None)
        with pytest.raises(ValueError, match=r"qkv was trained with the scaling .*4.0.*has .*25.0.*lora_alpha"):
            check_scalings(self.model(lora_alpha=50), about)


class TestTool:
    def test_prints_a_table_and_writes_the_exports(self, files, tmp_path):
        done = tiny.run_tool('tools/stable_rank.py', files['whole'], '--out', tmp_path / 'ranks',
                             '--budget', 'mean_rank=4')
        assert 'layers.1.attn.proj' in done.stdout and '4 modules' in done.stdout
        assert {p.name for p in (tmp_path / 'ranks').iterdir()} == {
            'ranks.json', 'ranks.csv', 'ranks.png', 'ranks_config.py', 'peft_config.json',
        }  # fmt: skip
        assert sum(RankTable.load(tmp_path / 'ranks' / 'ranks.json').ranks.values()) == 16

    def test_says_when_there_is_no_attention(self, tmp_path, capsys):
        torch.save({'conv.weight': torch.ones(2, 2)}, tmp_path / 'conv.pth')
        assert tiny.call_tool('stable_rank', tmp_path / 'conv.pth') == 2
        error = capsys.readouterr().err
        assert 'no attention weights' in error and 'conv.weight' in error

    def test_bad_arguments(self, files, tmp_path, capsys):
        (tmp_path / 'file').write_text('')
        for args, text in (
            ((files['vit'], '--slices', 'xxyzw'), 'xxyzw'),
            ((files['vit'], '--budget', 'mean_rank=inf'), 'finite'),
            ((files['vit'], '--out', tmp_path / 'file'), 'file'),
        ):
            assert tiny.call_tool('stable_rank', *args) == 2
            assert text in capsys.readouterr().err

    def test_the_function_behind_it(self, files, tmp_path):
        assert ranks_from_checkpoint(files['swin']).rows[0].module == 'stages.0.blocks.0.attn.w_msa.qkv'
        assert len(ranks_from_checkpoint(files['vit'], ffn=True).rows) == 8
        with pytest.raises(FileNotFoundError, match='none.pth'):
            ranks_from_checkpoint(str(tmp_path / 'none.pth'))

    @pytest.mark.parametrize('text', ['8', 'mean_rank', 'mean_rank=', 'mean_rank=x'])
    def test_budget_text(self, text):
        assert parse_budget(None) is None and parse_budget('params=1e6') == {'params': 1_000_000}
        with pytest.raises(ValueError, match=text):
            parse_budget(text)


def test_the_table_is_plain_data(files):
    cfg = config(dict(type='VitSR_LoRA', init_cfg=pretrained(files['vit']), **VIT))
    assert json.loads(json.dumps(settle_ranks(cfg).to_dict())) == cfg.rank_table
