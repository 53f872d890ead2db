"""What describes configs/clip_lora: the metafile, the README with its commands, and the map from the paper."""

import json
import re

import catalogue
import pytest
import yaml
from mmengine.config import DictAction
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS

from mmlora.apis import prepare_test_cfg, prepare_train_cfg
from mmlora.datasets import COOP_SETS
from mmlora.models.backbones.skeleton import Skeleton

FOLDER = catalogue.CONFIGS / 'clip_lora'
README = (FOLDER / 'README.md').read_text(encoding='utf-8')
PAPERS = (catalogue.CONFIGS.parent / 'docs' / 'from_the_papers.md').read_text(encoding='utf-8')
META = yaml.safe_load((FOLDER / 'metafile.yml').read_text(encoding='utf-8'))
RUNS = [line.split() for text in re.findall(r'^```bash\n(.*?)^```$', README, re.MULTILINE | re.DOTALL)
        for line in text.splitlines() if re.search(r'tools/(train|test)\.py', line)]
SHOTS = [1, 2, 4, 8, 16]
FIGURE = dict(
    imagenet='ImageNet', caltech101='Caltech101', oxford_pets='Pets', stanford_cars='Cars', oxford_flowers='Flowers102',
    food101='Food101', fgvc_aircraft='Aircraft', sun397='SUN397', dtd='DTD', eurosat='EuroSAT', ucf101='UCF101',
)  # fmt: skip


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmpretrain')


@pytest.fixture(scope='module')
def figure(golden):
    """What was read off the figure: set -> method -> shots, values and errors."""
    return json.loads((golden / 'clip_lora' / 'fig2_digitised.json').read_text())['data']


def config_of(model):
    return model['Config'].removeprefix('configs/').removesuffix('.py')


def test_the_metafile_lists_every_config_once(root):
    assert 'configs/clip_lora/metafile.yml' in yaml.safe_load((root / 'model-index.yml').read_text())['Import']
    assert sorted(map(config_of, META['Models'])) == sorted(catalogue.clip())
    for model in META['Models']:
        stem = config_of(model).split('/')[1]
        assert model['Name'] == re.sub(r'_1xb\d+-cosine-(\d+e|\d+i-per-shot|by-shot)|_training-free', '', stem)
    assert {model['In Collection'] for model in META['Models']} == {part['Name'] for part in META['Collections']}
    assert {part['README'] for part in META['Collections']} == {'configs/clip_lora/README.md'}


def test_the_metafile_counts_the_parameters():
    MMLogger.get_current_instance().setLevel('ERROR')
    counted = {}

    def count(built, **more):
        key = json.dumps(built | more, sort_keys=True)
        if key not in counted:
            with Skeleton():
                counted[key] = sum(p.numel() for p in MODELS.build(dict(built, **more)).parameters())
        return counted[key]

    for model in META['Models']:
        cfg = catalogue.load(config_of(model))
        built = dict(cfg.model.to_dict(), tokenizer=dict(type='WordTokenizer', vocabulary=['a']))
        built.pop('init_cfg')
        rows = getattr(MODELS.get(built['type']), 'rows_per_class', None)
        if rows and rows(built):
            one, two = (count(built, num_classes=classes) for classes in (1, 2))
            wanted = one + (COOP_SETS[cfg.dataset_name].num_classes - 1) * (two - one)
        else:
            wanted = count(built)
        assert model['Metadata']['Parameters'] == wanted


def test_the_metafile_has_the_published_results_with_their_errors(figure):
    found = 0
    for model in META['Models']:
        cfg = catalogue.load(config_of(model))
        row = figure[FIGURE[cfg.dataset_name]].get(cfg.method) if cfg.dataset_name in FIGURE else None
        wanted = {} if row is None or 'base-p16' not in model['Name'] else {
            f'{cfg.dataset_name}, {shot} shot{"s" * (shot > 1)} (published figure, ±{error})': value
            for shot, value, error in zip(SHOTS, row['acc'], row['uncertainty'], strict=True)}
        results = {each['Dataset']: each['Metrics']['Top 1 Accuracy'] for each in model.get('Results', ())}
        assert results == wanted
        found += len(results)
    assert found >= 2 * 11 * 5


def test_published_means(figure):
    for part in META['Collections']:
        for backbone, means in part['Metadata'].get('Published Means', {}).items():
            assert list(means.values()) == figure[f'Avg {backbone}'][part['Name']]['acc']
    rows = [figure[key]['CLIP-LoRA']['acc'] for key in FIGURE.values()]
    means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    assert means == pytest.approx(figure['Avg ViT-B/16']['CLIP-LoRA']['acc'], abs=0.11)


def test_the_tables_of_the_readme(figure):
    table = {line[0]: line[1:] for line in (
        row.split(' | ') for row in re.findall(r'^\| (.*\d\.\d.*) \|$', README, re.MULTILINE)) if len(line) == 6}
    wanted = {name: figure[key]['CLIP-LoRA']['acc'] for name, key in FIGURE.items()}
    wanted |= {f'{arch}, {method}': figure[f'Avg {arch}'][method]['acc']
               for arch in ('ViT-B/16', 'ViT-B/32', 'ViT-L/14') for method in ('CLIP-LoRA', 'Tip-Adapter-F', 'CoOp')}
    assert table == {name: [str(value or '–') for value in values] for name, values in wanted.items()}
    for model in META['Models']:
        first = config_of(model).split('/')[1].split('_')[0]
        assert f'`{first}_' in README


def test_commands_lead_from_training_to_testing():
    """A checkpoint that a test names is what training by a command before it writes."""
    written, tests = set(), 0
    for words in RUNS:
        options = words[words.index('--cfg-options') + 1:] if '--cfg-options' in words else []
        cfg = catalogue.load(words[2].removeprefix('configs/').removesuffix('.py'))
        cfg.merge_from_dict({key: DictAction._parse_iterable(value) for key, value in (
            option.split('=') for option in options)})
        if words[1] == 'tools/train.py':
            cfg = prepare_train_cfg(cfg)
            written.add(f'{cfg.work_dir}/iter_{cfg.train_cfg.max_iters}.pth')
        else:
            prepare_test_cfg(cfg, words[3])
            assert words[3] in written or words[3] == cfg.model.init_cfg.checkpoint
            tests += 1
    assert len(written) == 4 and tests == 7


def test_every_option_of_the_published_program_has_a_counterpart():
    part = PAPERS.split('## CLIP-LoRA')[1].split('\n## ')[0]
    for option in ('seed', 'root_path', 'dataset', 'shots', 'backbone', 'lr', 'n_iters', 'batch_size', 'position',
                   'encoder', 'params', 'r', 'alpha', 'dropout_rate', 'save_path', 'filename', 'eval_only'):
        assert re.search(rf'`--{option}\b', part), option
    cfg = catalogue.load('clip_lora/clip-lora_vit-base-p16_1xb32-cosine-500i-per-shot_dtd')
    parts = 'model|optim_wrapper|param_scheduler|train_dataloader|randomness|max_iters'
    named = re.findall(rf'`((?:{parts})\.[\w.]+)', part)
    assert len(named) > 12
    for place in named:
        node = cfg
        for step in place.rstrip('.').split('.'):
            node = node[int(step) if step.isdigit() else step]
