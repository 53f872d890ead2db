"""What describes the configs: the metafile, the lists of runs, the README and the map from the papers."""

import itertools
import json
import re

import catalogue
import pytest
import yaml
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import HOOKS, MODELS

from mmlora.apis import settle_variables
from mmlora.apis.sweep_plan import points, read_grid, seed_key, settle_job, spread
from mmlora.models.backbones.skeleton import Skeleton

FOLDERS = ('sr_lora', 'rlrr', 'baselines')
READMES = {name: (catalogue.CONFIGS / name / 'README.md').read_text(encoding='utf-8') for name in FOLDERS}
README = READMES['sr_lora']
PAPERS = (catalogue.CONFIGS.parent / 'docs' / 'from_the_papers.md').read_text(encoding='utf-8')
SWEEPS = sorted((catalogue.CONFIGS / 'sweeps').glob('*.py'))
RUNS = {'digits': 6 * 3, 'medfm': 9 * 3 * 5, 'vtab_fewshot': 57 * 5, 'clip_few-shot': 33 * 5 * 3}
LEAVES = [name for name in catalogue.sr_lora() if 'published-code' not in name]
LISTED = dict(sr_lora=LEAVES, rlrr=catalogue.rlrr(), baselines=catalogue.baselines())
SNIPPETS = {text.splitlines()[0].removeprefix('# configs/'): text
            for text in re.findall(r'^```python\n(# configs/.*?)^```$', README, re.MULTILINE | re.DOTALL)}
CLIP = (catalogue.CONFIGS / 'clip_lora' / 'README.md').read_text(encoding='utf-8')
COMMANDS = [line.split('#')[0].split() for text in re.findall(r'^```bash\n(.*?)^```$', '\n'.join(
    [*READMES.values(), CLIP, PAPERS]), re.MULTILINE | re.DOTALL) for line in text.splitlines()]


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmpretrain')


def swept(grid):
    """Return the names of the configs of a sweep."""
    return [path.relative_to(catalogue.CONFIGS).with_suffix('').as_posix() for path in grid.configs]


def metafile(folder):
    return yaml.safe_load((catalogue.CONFIGS / folder / 'metafile.yml').read_text())


@pytest.mark.parametrize('folder', FOLDERS)
def test_the_metafile_lists_every_config_once(root, folder):
    index = yaml.safe_load((root / 'model-index.yml').read_text())['Import']
    assert f'configs/{folder}/metafile.yml' in index
    collections = {collection['Name'] for collection in metafile(folder)['Collections']}
    assert all(collection['README'] == f'configs/{folder}/README.md' for collection in metafile(folder)['Collections'])
    models = metafile(folder)['Models']
    assert sorted(model['Config'] for model in models) == sorted(f'configs/{name}.py' for name in LISTED[folder])
    for model in models:
        stem = model['Config'].rsplit('/', 1)[1].removesuffix('.py')
        assert model['Name'] == re.sub(r'_1xb\d+-\w+-\d+e(?=_)', '', stem)
    assert {model['In Collection'] for model in models} == collections
    assert len({model['Name'] for model in models}) == len(models)


@pytest.mark.parametrize('folder', FOLDERS)
def test_the_metafile_counts_the_parameters(folder):
    own = {}
    for model in metafile(folder)['Models']:
        cfg = catalogue.load(model['Config'].removeprefix('configs/').removesuffix('.py'))
        key = re.sub(r'_(vtab1k|fgvc|medfmc)-.*', '', model['Name'])
        if key not in own:
            with Skeleton():
                backbone = MODELS.build(catalogue.without_weights(catalogue.load(
                    model['Config'].removeprefix('configs/').removesuffix('.py'))).model.backbone)
            own[key] = sum(p.numel() for p in backbone.parameters())
        head = (cfg.model.head.in_channels + 1) * cfg.model.head.num_classes
        assert model['Metadata']['Parameters'] == own[key] + head
    assert len(own) == dict(sr_lora=3, rlrr=6, baselines=7)[folder]


@pytest.mark.parametrize('folder, count, form', [
    ('sr_lora', 11 + 9, '.2f'), ('rlrr', 4 * 19 + 5, '.1f'), ('baselines', 7 * 19 + 6 * 5, '.1f'),
])
def test_published_results_stand_in_the_readme_too(folder, count, form):
    results = [result for model in metafile(folder)['Models'] for result in model.get('Results', ())]
    assert len(results) == count
    for result in results:
        assert 'published' in result['Dataset']
        for value in result['Metrics'].values():
            assert f' {value:{form}} ' in READMES[folder]


def published_row(published, name):
    """The published results of the method and backbone that a name in a metafile begins with."""
    method, arch = name.split('_')[:2]
    key = {'bitfit': 'bias', 'vpt-deep': 'vpt_deep', 'lora-r8': 'lora'}.get(method, method)
    vtab = published['results'].get(arch + ('_augreg' if 'augreg' in name else ''), {}).get(key, {})
    fgvc = published['fgvc_results'].get('ssf(augreg)' if method == 'ssf' else key, []) if 'base-p16' in arch else []
    sets = dict(zip(('cub', 'nabirds', 'flowers', 'dogs', 'cars'), fgvc, strict=False))
    return {f'vtab1k-{set_name.replace("_", "-")}': value for set_name, value in vtab.items()} | {
        f'fgvc-{set_name}': value for set_name, value in sets.items()}


@pytest.mark.parametrize('folder', ['rlrr', 'baselines'])
def test_the_metafile_has_the_published_results(golden, folder):
    published = json.loads((golden / 'rlrr' / 'published.json').read_text())
    for model in metafile(folder)['Models']:
        data = re.search(r'(?:vtab1k|fgvc)-[\w-]+', model['Name'])[0]
        wanted = published_row(published, model['Name']).get(data)
        (result,) = model.get('Results') or [None]
        assert (result and result['Metrics']['Top 1 Accuracy']) == wanted, model['Name']
        assert result is None or data.split('-', 1)[1] in result['Dataset'].split()


@pytest.mark.parametrize('folder', ['rlrr', 'baselines'])
def test_the_tables_of_the_readme_are_the_published_ones(golden, folder):
    published = json.loads((golden / 'rlrr' / 'published.json').read_text())
    results = published['results']
    rows = [results['vit-base-p16']['rlrr'], results['vit-base-p16_augreg']['rlrr*'],
            *(results[arch]['rlrr'] for arch in ('vit-large-p16', 'vit-huge-p14', 'swin-base-w7'))]
    if folder == 'baselines':
        rows = [results['vit-base-p16'][key] for key in ('full', 'linear', 'bias', 'vpt_deep', 'lora', 'adaptformer')]
        rows.append(results['vit-base-p16_augreg']['ssf'])
    wanted = [[str(row[name]) for row in rows] for name in published['vtab']]
    wanted += [[str(row['means'][key]) for row in rows] for key in ('natural', 'specialized', 'structured', 'mean19')]
    wanted.append([f'{row["group_mean"]:.1f}' for row in rows])
    lines = re.findall(r'^\| (.*) \|$', READMES[folder].split('## Published numbers')[1], re.MULTILINE)
    table = [line.split(' | ')[1:] for line in lines[1:]]
    assert table[:len(wanted)] == wanted
    for collection in metafile(folder)['Collections']:
        for means in collection['Metadata']['Published Means'].values():
            assert f' {means["VTAB-1k mean of 19 sets"]} ' in READMES[folder]


def test_mmpretrain_finds_the_models(root, monkeypatch):
    from mmpretrain.apis.model import ModelHub

    monkeypatch.setattr(ModelHub, '_models_dict', {})
    ModelHub.register_model_index(str(root / 'model-index.yml'), config_prefix=str(root))
    found = ModelHub.get('sr-lora_swin-base-w12_in21k-pre_medfmc-chest')
    assert found.config.model.head.num_classes == 19 and found.weights is None
    found = ModelHub.get('rlrr_swin-base-w7_in21k-pre_fgvc-dogs')
    assert found.config.model.head.num_classes == 120


@pytest.mark.parametrize('path', SWEEPS, ids=lambda path: path.stem)
def test_every_run_of_a_sweep_can_be_settled(path):
    grid = read_grid(path)
    combinations = list(points(grid.options))
    assert len(set(grid.configs)) == len(grid.configs)
    assert path.stem not in RUNS or len(grid.configs) * len(combinations) == RUNS[path.stem]
    for name, options in itertools.product(swept(grid), combinations):
        cfg = settle_job(catalogue.load(name), spread(options), 'test')
        assert cfg.randomness.seed == options[seed_key(options)]
        if name in LEAVES:
            assert cfg.settled_variables == {key: options[key] for key in ('shot', 'split')}


def test_the_sweeps_name_every_config():
    named = [name for path in SWEEPS for name in swept(read_grid(path)) if name.startswith('sr_lora/')]
    assert sorted(named) == sorted(LEAVES)


@pytest.fixture
def snippet(tmp_path):
    """Load a config of the README as if it lay where it says."""

    def load(name):
        text = re.sub(r"'\./", f"'{catalogue.CONFIGS.as_posix()}/", SNIPPETS[name])
        path = tmp_path / name
        path.write_text(text)
        return Config.fromfile(path)

    return load


def test_choosing_the_best_epoch_leaves_the_test_alone(snippet):
    cfg = snippet('eurosat_best.py')
    assert (cfg.val_dataloader.dataset.split, cfg.test_dataloader.dataset.split) == ('val', 'test')
    assert cfg.val_dataloader.batch_size == cfg.test_dataloader.batch_size
    cfg.merge_from_dict(dict(shot=5, split=3))
    settle_variables(cfg)
    assert (cfg.val_dataloader.dataset.n_shot, cfg.val_dataloader.dataset.exp) == (5, 3)
    assert cfg.default_hooks.checkpoint.save_best == 'accuracy/top1' and cfg.val_cfg == {}
    HOOKS.build(cfg.default_hooks.checkpoint)


def test_the_config_for_own_data(snippet):
    cfg = snippet('flowers_sr-lora.py')
    assert set(cfg.train_dataloader.dataset) == {'type', 'data_root', 'data_prefix', 'pipeline'}
    base = catalogue.load('sr_lora/sr-lora_vit-base-p16_in21k-pre_1xb4-coslr-20e_vtab1k-svhn')
    assert cfg.train_dataloader.dataset.pipeline == base.train_dataloader.dataset.pipeline
    assert cfg.test_dataloader.dataset.pipeline == base.test_dataloader.dataset.pipeline
    assert settle_variables(cfg) == {} and cfg.model.head.num_classes == 5
    with Skeleton():
        MODELS.build(catalogue.without_weights(cfg).model)


def test_all_snippets_are_tested():
    assert set(SNIPPETS) == {'eurosat_best.py', 'flowers_sr-lora.py'}


@pytest.mark.parametrize('command', COMMANDS, ids=lambda words: ' '.join(words)[:60])
def test_commands_name_what_exists(root, command):
    assert command[0] == 'python' and (root / command[1]).is_file()
    tool = (root / command[1]).read_text()
    for word in command[2:]:
        if word.startswith('--'):
            assert f"'{word}'" in tool
        elif word.startswith('configs/') and '<' not in word:
            assert (root / word).is_file()


@pytest.mark.parametrize('text', [README, READMES['rlrr'] + READMES['baselines'], PAPERS + CLIP],
                         ids=['sr_lora', 'others', 'from_the_papers'])
def test_named_files_exist(root, text):
    files = re.findall(r'`((?:tools|configs/(?!Vit|Swin)|docs|mmlora)/?[\w./-]+\.\w+)`', text)
    assert files and [name for name in files if not (root / name).is_file()] == []


def test_names_of_the_papers_are_registered():
    for name in re.findall(r'\| `(\w*_?(?:LoRA|lora)\w*)`', PAPERS):
        assert name in MODELS or name in HOOKS, name
