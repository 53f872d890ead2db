"""Criteria, budgets and ranks for slices on their way through configs, checkpoints, hook and tool."""

import json

import pytest
import tiny
import torch
from mmengine.config import Config
from mmpretrain.models import VisionTransformer
from mmpretrain.registry import HOOKS, MODELS

from mmlora.adapters import adapted_layers
from mmlora.apis import parse_budget, ranks_from_checkpoint, settle_ranks
from mmlora.apis.rank_report import ranks_from_config
from mmlora.engine.adaptation import describe_adaptation
from mmlora.engine.rank_check import check_ranks, other_weights
from mmlora.ranks import RankTable

VIT = dict(
    arch=dict(embed_dims=16, num_layers=2, num_heads=4, feedforward_channels=32), img_size=32, patch_size=16
)
SLICED = [[{'q': 3, 'v': 5}, 2], [{'q': 1, 'k': 2, 'v': 4}, 0]]


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp('weights')
    torch.manual_seed(0)
    state = VisionTransformer(**VIT).state_dict()
    torch.save(state, folder / 'vit.pth')
    whole = {**{f'backbone.{k}': v for k, v in state.items()}, 'head.fc.weight': torch.ones(1000, 16)}
    torch.save({'state_dict': whole}, folder / 'whole.pth')
    return folder


def backbone(files=None, **kwargs) -> dict:
    init = {} if files is None else dict(init_cfg=dict(type='Pretrained', checkpoint=str(files / 'vit.pth')))
    return dict(dict(type='VitSR_LoRA', **VIT, **init), **kwargs)


def config(inner: dict, **kwargs) -> Config:
    head = dict(type='LinearClsHead', num_classes=3, in_channels=16)
    return Config(dict(model=dict(type='ImageClassifier', backbone=inner, head=head), **kwargs))


def ranks_of(model) -> dict:
    layers = adapted_layers(model)
    return {name: layer.ranks[''] if set(layer.ranks) == {''} else layer.ranks for name, layer in layers.items()}


CASES = [
    dict(lora_ranks='effective_rank', rank_per='slice'),
    dict(lora_ranks='effective_rank@2', rank_budget=dict(share=0.1)),
    dict(lora_ranks='energy@0.5', rank_budget=dict(r_max=4)),
    dict(lora_ranks='stable_rank', rank_per='slice', lora_slices='qkv', rank_budget=dict(params=2000, multiple_of=2)),
    dict(lora_ranks='uniform', rank_budget=dict(share=0.1)),
    dict(lora_ranks='random@3', rank_budget=dict(params=900, r_min=2), rank_per='slice'),
]


class TestCriteria:
    @pytest.mark.parametrize('case', CASES, ids=lambda case: case['lora_ranks'])
    @pytest.mark.parametrize('kind', ['VitSR_LoRA', 'AdaptedBackbone'])
    def test_constructor_and_config_agree_and_survive_a_dump(self, files, case, kind):
        inner = backbone(files, **case)
        if kind == 'AdaptedBackbone':
            bare = dict(backbone(files), type='VisionTransformer')
            inner = dict(type=kind, backbone=bare, targets=['attn.qkv', 'attn.proj'], **case)
        built = MODELS.build(dict(inner))
        cfg = config(inner)
        table = settle_ranks(cfg)
        assert table == built.rank_table
        assert ranks_of(built).items() <= {
            m: dict.fromkeys(case.get('lora_slices', 'qv'), r) if m.endswith('qkv') and isinstance(r, int) else r
            for m, r in table.ranks.items()
        }.items()
        assert any(isinstance(r, dict) for r in table.ranks.values()) == (case.get('rank_per') == 'slice')
        dumped = Config.fromstring(cfg.pretty_text, '.py')
        for name in ('rank_budget', 'rank_per'):
            assert name not in dumped.model.backbone
        assert ranks_of(MODELS.build(dumped.model.backbone)) == ranks_of(built)
        settle_ranks(dumped)
        assert RankTable.from_dict(dumped.rank_table) == table, 'a dumped config is settled again'

    @pytest.mark.parametrize('criterion', ['uniform', 'random'])
    def test_controls_need_no_weights(self, criterion):
        table = settle_ranks(config(backbone(lora_ranks=criterion, rank_budget=dict(mean_rank=3))))
        assert sum(table.ranks.values()) == 12 and table.sha256 is None
        other = MODELS.build(backbone(lora_ranks=criterion, rank_budget=dict(mean_rank=3)))
        assert other.rank_table == table

    def test_a_share_is_of_the_backbone(self, files):
        size = sum(p.numel() for p in VisionTransformer(**VIT).parameters())
        expected = settle_ranks(config(backbone(files, rank_budget=dict(params=int(0.1 * size)))))
        assert settle_ranks(config(backbone(files, rank_budget=dict(share=0.1)))).ranks == expected.ranks
        for name in ('vit', 'whole'):  # the head of the whole model does not count
            own = ranks_from_checkpoint(str(files / f'{name}.pth'), budget=dict(share=0.1))
            assert own.ranks == expected.ranks, name
        from_file = backbone(lora_ranks=str(files / 'whole.pth'), rank_budget=dict(share=0.1))
        assert settle_ranks(config(from_file)).ranks == expected.ranks

    def test_the_hook_gives_criterion_and_budget(self, files):
        hook = dict(type='StableRankHook', criterion='random@2', budget=dict(params=1000, multiple_of=4))
        table = settle_ranks(config(backbone(files), custom_hooks=[hook]))
        assert {row.criterion for row in table.rows} == {'random@2'} and all(r % 4 == 0 for r in table.ranks.values())

    @pytest.mark.parametrize(
        ('own', 'hook', 'match'),
        [
            (dict(lora_ranks='stable_rank'), dict(criterion='energy@0.9'), "'stable_rank'.*criterion='energy@0.9'"),
            (dict(lora_ranks='in21k-vit-b'), dict(criterion='stable_rank'), "'in21k-vit-b'.*'stable_rank'"),
            (dict(rank_budget=dict(mean_rank=2)), dict(budget=dict(mean_rank=3)), "rank_budget=.*2.*budget=.*3"),
        ],
    )
    def test_the_hook_does_not_ask_for_other_ranks_than_the_backbone(self, files, own, hook, match):
        cfg = config(backbone(files, **own), custom_hooks=[dict(type='StableRankHook', **hook)])
        with pytest.raises(ValueError, match=match):
            settle_ranks(cfg)

    def test_backbone_and_hook_may_ask_for_the_same(self, files):
        both = dict(criterion='energy@0.5', budget=dict(mean_rank=3))
        inner = backbone(files, lora_ranks=both['criterion'], rank_budget=both['budget'])
        table = settle_ranks(config(inner, custom_hooks=[dict(type='StableRankHook', **both)]))
        assert sum(table.ranks.values()) == 12 and table.rows[0].criterion == 'energy@0.5'

    @pytest.mark.parametrize(
        ('case', 'match'),
        [
            (dict(lora_ranks=3, rank_per='slice'), "rank_per='slice' needs ranks from a criterion.*lora_ranks=3"),
            (dict(lora_ranks='in21k-vit-b', rank_per='slice'), 'in21k-vit-b'),
            (dict(lora_ranks='ranks.json', rank_budget=dict(params=9)), 'rank_budget=.*ranks.json'),
            (dict(lora_ranks='ranks.json', rank_per='slice'), 'rank_per=.*ranks.json'),
            (dict(lora_ranks='stable_rank', rank_per='head'), "'head'"),
            (dict(lora_ranks='stable_rank', rank_per='slice', lora_slices=None), 'needs slices'),
            (dict(lora_ranks='uniform'), "'uniform'.*needs a budget"),
            (dict(lora_ranks='energy@2'), 'energy@2'),
            (dict(lora_ranks='enrgy@2'), "enrgy@2.*'energy'"),
            (dict(lora_ranks='stable_rank', rank_budget=dict(mean_rank=2, r_mx=3)), 'r_mx'),
            (dict(lora_ranks='stable_rank', rank_budget=dict(share=0.99)), 'cannot be met.*at most'),
            (dict(lora_ranks=[[{'q': 2, 'x': 3}, 2], [1, 1]]), r"lora_ranks\[0\]\[0\].*'x'"),
            (dict(lora_ranks=[[{'q': 2}, 2], [1, 1]], lora_slices=None), 'layers.0.attn.qkv'),
        ],
    )
    def test_errors(self, files, case, match, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        rows = [dict(module=f'layers.{i}.attn.{e}', rank=2) for i in range(2) for e in ('qkv', 'proj')]
        (tmp_path / 'ranks.json').write_text(json.dumps(dict(rows=rows)))
        with pytest.raises((ValueError, TypeError), match=match):
            MODELS.build(backbone(files, **case))

    @pytest.mark.parametrize('kind', ['VitSR_LoRA', 'AdaptedBackbone'])
    def test_a_misspelt_argument(self, kind):
        inner = dict(backbone(), lora_rank=8)
        if kind == 'AdaptedBackbone':
            inner = dict(type=kind, backbone=dict(backbone(), type='VisionTransformer'), targets='qkv', lora_rank=8)
        with pytest.raises(TypeError, match=r"unknown argument 'lora_rank'.*'lora_ranks'"):
            MODELS.build(inner)


class TestSlices:
    def test_by_hand(self):
        model = MODELS.build(backbone(lora_ranks=SLICED))
        assert ranks_of(model) == {
            'layers.0.attn.qkv': {'q': 3, 'v': 5},
            'layers.0.attn.proj': 2,
            'layers.1.attn.qkv': {'q': 1, 'k': 2, 'v': 4},
        }
        assert [row.label for row in model.rank_table.rows][-2:] == ['layers.1.attn.qkv v', 'layers.1.attn.proj']

    def test_a_projection_whose_slices_are_all_zero_is_left_alone(self):
        model = MODELS.build(backbone(lora_ranks=[[{'q': 0, 'v': 0}, 2], [{'q': 0, 'v': 4}, 1]]))
        assert ranks_of(model) == {'layers.0.attn.proj': 2, 'layers.1.attn.qkv': {'v': 4}, 'layers.1.attn.proj': 1}

    def test_the_table_in_a_checkpoint_wins(self, tmp_path):
        model = MODELS.build(config(backbone(lora_ranks=SLICED)).model)
        about = json.loads(json.dumps(describe_adaptation(model)))
        torch.save({'state_dict': {}, 'meta': {'mmlora': about}}, tmp_path / 'c.pth')
        cfg = config(backbone(lora_ranks='stable_rank'))
        settle_ranks(cfg, str(tmp_path / 'c.pth'))
        assert cfg.model.backbone.lora_ranks == SLICED
        other = MODELS.build(backbone(lora_ranks=str(tmp_path / 'c.pth')))
        assert ranks_of(other) == ranks_of(model.backbone)

    def test_a_file(self, files, tmp_path):
        table = settle_ranks(config(backbone(files, rank_per='slice')))
        (tmp_path / 'ranks.json').write_text(table.dumps())
        model = MODELS.build(backbone(lora_ranks=str(tmp_path / 'ranks.json')))
        assert model.rank_table == table and ranks_of(model) == table.ranks


class TestRankCheck:
    """Whether a table, some of whose rows are changed, fits a model and its weights."""

    def check(self, files, change, **case):
        cfg = config(backbone(files, **case), custom_hooks=[])
        settle_ranks(cfg)
        model = MODELS.build(cfg.model)
        model.init_weights()
        change(cfg.rank_table['rows'])
        table, layers = RankTable.from_dict(cfg.rank_table), adapted_layers(model.backbone)
        check_ranks(table, layers)
        return other_weights(table, layers)

    @pytest.mark.parametrize('case', CASES, ids=lambda case: case['lora_ranks'])
    def test_a_table_that_fits(self, files, case):
        assert self.check(files, lambda rows: None, **case) is None

    @pytest.mark.parametrize('case', CASES[:4], ids=lambda case: case['lora_ranks'])
    def test_values_of_other_weights(self, files, case):
        fault = self.check(files, lambda rows: rows[-2].update(value=rows[-2]['value'] * 1.1), **case)
        assert 'other weights than those loaded' in fault and 'layers.1.attn.qkv' in fault

    @pytest.mark.parametrize('case', CASES[4:], ids=lambda case: case['lora_ranks'])
    def test_values_that_weights_do_not_decide_are_not_checked(self, files, case):
        assert self.check(files, lambda rows: rows[0].update(value=99.0), **case) is None

    def test_the_rank_of_a_slice(self, files):
        with pytest.raises(ValueError, match="layers.1.attn.qkv has ranks .*'v'.*the table says"):
            self.check(files, lambda rows: rows[-2].update(rank=rows[-2]['rank'] + 1), rank_per='slice')

    @pytest.mark.parametrize(
        ('case', 'match'),
        [(dict(criterion='energy'), 'needs a parameter'), (dict(budget=dict(r_min=3, r_max=2)), 'r_min=3')],
    )
    def test_bad_arguments(self, case, match):
        with pytest.raises(ValueError, match=match):
            HOOKS.build(dict(type='StableRankHook', **case))


class TestTool:
    def test_slices_bounds_and_names(self, files, tmp_path):
        tiny.call_tool(
            'stable_rank', files / 'whole.pth', '--criterion', 'energy@0.9', '--per', 'slice', '--out', tmp_path,
            '--budget', 'r_max=7,multiple_of=2', '--names', 'hf', '--alpha', 8, '--scaling', 'constant',
        )  # fmt: skip
        table = RankTable.load(tmp_path / 'ranks.json')
        assert table.ranks == {
            f'layers.{i}.attn.{end}': rank for i in range(2) for end, rank in (('qkv', {'q': 6, 'v': 6}), ('proj', 6))
        }
        config = json.loads((tmp_path / 'peft_config.json').read_text())
        assert config['rank_pattern'][r'layers\.1\.attention\.q_proj'] == 6
        assert set(config['alpha_pattern'].values()) == {48.0}
        scope: dict = {}
        exec((tmp_path / 'ranks_config.py').read_text(), scope)
        assert scope['lora_ranks'] == [[{'q': 6, 'v': 6}, 6]] * 2

    def test_a_config(self, files, tmp_path, capsys):
        config(backbone(files, lora_ranks='stable_rank', lora_alpha=4)).dump(tmp_path / 'config.py')
        options = ['--config', tmp_path / 'config.py', '--out', tmp_path]
        tiny.call_tool('stable_rank', *options, '--criterion', 'uniform', '--budget', 'mean_rank=3')
        assert set(RankTable.load(tmp_path / 'ranks.json').ranks.values()) == {3}
        written = json.loads((tmp_path / 'peft_config.json').read_text())
        assert written['alpha_pattern'][r'layers\.0\.attn\.proj'] == 4.0
        said = capsys.readouterr().out
        assert 'criterion uniform' in said and 'note: peft adapts the fused projection' in said
        tiny.call_tool('stable_rank', *options, '--cfg-options', 'model.backbone.rank_per=slice')
        assert len(RankTable.load(tmp_path / 'ranks.json').rows) == 6

    @pytest.mark.parametrize(
        ('options', 'match'),
        [
            (['--config', 'c.py', '--slices', 'qkv', '--ffn'], '--ffn, --slices: for a checkpoint only'),
            (['--config', 'c.py', '--alpha', '1'], '--alpha: for a checkpoint only'),
            (['x.pth', '--cfg-options', 'a=1'], '--cfg-options need --config'),
            (['x.pth', '--config', 'c.py'], 'give a checkpoint, or --config'),
        ],
    )
    def test_options_that_would_do_nothing(self, options, match, capsys):
        with pytest.raises(SystemExit):
            tiny.call_tool('stable_rank', *options)
        assert match in capsys.readouterr().err

    def test_a_scaling_by_number(self, files, tmp_path):
        tiny.call_tool('stable_rank', files / 'vit.pth', '--scaling', '0.5', '--out', tmp_path)
        config = json.loads((tmp_path / 'peft_config.json').read_text())
        assert config['lora_alpha'] == 0.5 * config['r']

    def test_a_criterion_takes_the_place_of_what_the_hook_asks_for(self, files):
        hook = dict(type='StableRankHook', criterion='energy@0.9', budget=dict(mean_rank=7))
        cfg = config(backbone(files), custom_hooks=[hook])
        assert ranks_from_config(cfg)[0].budget == dict(mean_rank=7)
        table, _ = ranks_from_config(cfg, 'stable_rank')
        assert table.budget is None and {row.criterion for row in table.rows} == {'stable_rank'}

    @pytest.mark.parametrize(
        ('text', 'budget'),
        [
            ('params=500000,r_max=64', {'params': 500000, 'r_max': 64}),
            ('share=0.01, r_min=0', {'share': 0.01, 'r_min': 0}),
            ('multiple_of=8', {'multiple_of': 8}),
        ],
    )
    def test_budget_text(self, text, budget):
        assert parse_budget(text) == budget

    @pytest.mark.parametrize('text', ['params=1,', 'params=1,params=2', 'params=1,share=1', 'rmax=3', 'r_max=2.5', ''])
    def test_bad_budget_text(self, text):
        with pytest.raises(ValueError, match='budget'):
            parse_budget(text)
