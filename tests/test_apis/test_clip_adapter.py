"""Adapter folders of CLIP: real peft in both directions, the published file, the tools, and other frozen weights."""

import importlib.util
import json
import re
import shutil

import clip_folders
import clip_tiny
import numpy as np
import pytest
import tiny
import torch
from mmengine.config import Config
from PIL import Image
from safetensors.torch import load_file, save_file

import mmlora.clip
from mmlora.apis import train
from mmlora.apis.records import sha256_of
from mmlora.engine.adapter_folder import result_row
from mmlora.engine.clip_images import describe_images, is_known, published_steps
from mmlora.engine.clip_record import base_location, why_no_folder, write_run
from mmlora.io.adapter_card import shown_paths
from mmlora.io.checkpoint import load_checkpoint
from mmlora.io.clip_folder import read_folder
from mmlora.io.clip_lora_file import labels_of, place_layers, read_published_lora
from mmlora.io.clip_peft import own_tensors
from mmlora.models import LoRACLIPClassifier
from mmlora.models.clip.base_weights import base_sha256
from mmlora.models.clip.settings import describe_clip

ARCH = clip_tiny.ARCH
DEEP = dict(ARCH, vision_layers=12, vision_width=8)
PUBLISHED = clip_tiny.FOLDER / 'ref_checkpoint' / 'vitb16' / 'tiny' / '1shots' / 'seed1' / 'lora_weights.pt'
CLOSE = dict(rtol=1e-4, atol=1e-5)
TOKENS = torch.tensor([[13, 1, 2, 14, 0], [13, 5, 14, 0, 0]])

CASES = {
    'published': (ARCH, dict()),
    'qkvo': (ARCH, dict(params='qkvo', lora_rank=3, lora_alpha=2)),
    'vision': (ARCH, dict(encoder='vision', params='ov', lora_scaling='alpha/r')),
    'text': (ARCH, dict(encoder='text', params='k', layers='half-up', lora_scaling='constant', lora_alpha=0.7)),
    'a number': (ARCH, dict(lora_scaling=0.3, layers=dict(vision=[2], text=[0, 3]))),
    'block 1 of 12': (DEEP, dict(layers=dict(vision=[1], text=[1]), lora_alpha=1.5)),
}  # fmt: skip


def images(size=16, count=3):
    return clip_tiny.images(count, size).float()


def make_folder(path, arch=ARCH, base=None, seed=0, **kwargs):
    """Write the folder of a model with random factors on the weights of ``plain_model``."""
    plain = clip_folders.plain_model(arch, seed)
    model = LoRACLIPClassifier(**{**clip_tiny.SMALL, 'arch': arch, **kwargs})
    model.load_state_dict(plain.state_dict(), strict=False)
    clip_tiny.fill(model).eval()
    init_cfg = dict(type='Pretrained', checkpoint=str(base or ''))
    cfg = Config(dict(model=dict(tokenizer=clip_tiny.SMALL['tokenizer'], init_cfg=init_cfg)))
    return write_run(path, cfg, model, dict(dataset_name='animals'), []), model, plain


class TestPeft:
    @pytest.mark.parametrize('case', CASES)
    def test_real_peft_computes_the_same_from_our_folder(self, tmp_path, case):
        peft = pytest.importorskip('peft')
        arch, kwargs = CASES[case]
        folder, model, plain = make_folder(tmp_path / 'adapter', arch, **kwargs)
        hf = clip_folders.hf_model(arch)
        hf.load_state_dict(load_file(clip_folders.write_base(tmp_path / 'hf.safetensors', plain, 'hf')), strict=False)
        before = clip_folders.hf_features(hf, images(), TOKENS)
        adapted = peft.PeftModel.from_pretrained(hf, str(folder))
        names = {n.removesuffix('.lora_A') for n, _ in adapted.named_modules() if n.endswith('.lora_A')}
        assert len(names) == len(read_folder(folder).factors)
        expected = clip_folders.own_features(model, images(), TOKENS)
        found = clip_folders.hf_features(adapted.get_base_model(), images(), TOKENS)
        for own, theirs, plain_features, tower in zip(expected, found, before, ('vision', 'text'), strict=True):
            torch.testing.assert_close(theirs, own, **CLOSE)
            assert torch.allclose(own, plain_features, **CLOSE) == (tower not in describe_clip(model)['layers'])

    @pytest.mark.parametrize('targets, rslora', [(['q_proj', 'v_proj'], False), (['out_proj', 'k_proj'], True)])
    def test_a_lora_of_peft_computes_the_same_here(self, tmp_path, targets, rslora):
        peft = pytest.importorskip('peft')
        plain = clip_folders.plain_model()
        base = clip_folders.write_base(tmp_path / 'hf.safetensors', plain, 'hf')
        hf = clip_folders.hf_model(ARCH)
        hf.load_state_dict(load_file(base), strict=False)
        config = peft.LoraConfig(r=3, lora_alpha=2, use_rslora=rslora, target_modules=targets, init_lora_weights=False)
        adapted = peft.get_peft_model(hf, config)
        adapted.eval().save_pretrained(str(tmp_path / 'peft'))
        loaded = mmlora.clip.load(tmp_path / 'peft', base, arch=ARCH, tokenizer=clip_tiny.SMALL['tokenizer'],
                                  classes=clip_tiny.CLASSES, device='cpu')
        assert describe_clip(loaded.model)['params'] == sorted((t[0] for t in targets), key='qkvo'.index)
        expected = clip_folders.hf_features(adapted.get_base_model(), images(), TOKENS)
        own = clip_folders.own_features(loaded.model, images(), TOKENS)
        for theirs, ours, unchanged in zip(expected, own, clip_folders.own_features(plain, images(), TOKENS),
                                           strict=True):
            torch.testing.assert_close(ours, theirs, **CLOSE)
            assert not torch.allclose(ours, unchanged, **CLOSE)
        assert len(loaded.predict([np.zeros((20, 30, 3), np.uint8)])) == 1
        with pytest.raises(ValueError, match=r"does not say which CLIP it is for \(base_model_name_or_path=None\)"):
            mmlora.clip.load(tmp_path / 'peft', base)

    REFUSED = {
        'another kind': (dict(peft_type='LOHA'), "peft_type='LOHA'"),
        'DoRA': (dict(use_dora=True), r'use_dora=True \(DoRA\)'),
        'a rank of its own': (dict(rank_pattern={'q_proj': 4}), 'rank_pattern='),
        'biases': (dict(bias='lora_only'), "bias='lora_only'"),
        'another rank': (dict(r=5), r'has r=5, and its factors have the ranks \[2\]'),
        'no alpha': (dict(lora_alpha=None), 'lora_alpha=None'),
        'other base weights': (dict(init_lora_weights='pissa_niter_4'), "'pissa_niter_4', which changes the base w"),
        'another alpha than the record': (dict(lora_alpha=3), 'do not belong together'),
    }

    @pytest.mark.parametrize('case', REFUSED)
    def test_what_cannot_be_had_here_is_refused(self, tmp_path, case):
        change, message = self.REFUSED[case]
        folder, *_ = make_folder(tmp_path / 'adapter')
        path = folder / 'adapter_config.json'
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
        with pytest.raises(ValueError, match=message):
            read_folder(folder)

    TENSORS = {
        'another layer': ({'base_model.model.vision_model.encoder.layers.0.mlp.fc1.lora_A.weight': (2, 16)},
                          'mlp.fc1.lora_A.weight, which is no LoRA on q_proj'),
        'no partner': ({'base_model.model.text_model.encoder.layers.0.self_attn.out_proj.lora_A.weight': (2, 8)},
                       'lora_A of text_model.encoder.layers.0.self_attn.out_proj without its partner'),
        'other projections': ({f'base_model.model.text_model.encoder.layers.0.self_attn.out_proj.lora_{x}.weight': s
                               for x, s in (('A', (2, 8)), ('B', (8, 2)))},
                              'adapts qkv in block . of the .* tower and qkvo in block 0 of the text tower'),
    }  # fmt: skip

    @pytest.mark.parametrize('case', TENSORS)
    def test_other_tensors_are_refused(self, tmp_path, case):
        more, message = self.TENSORS[case]
        folder, *_ = make_folder(tmp_path / 'adapter')
        path = folder / 'adapter_model.safetensors'
        save_file(load_file(path) | {key: torch.zeros(shape) for key, shape in more.items()}, str(path))
        with pytest.raises(ValueError, match=message):
            read_folder(folder)


class TestBase:
    @pytest.mark.parametrize('layout', ['openai', 'hf'])
    def test_the_folder_brings_everything_back(self, tmp_path, layout):
        base = clip_folders.write_base(tmp_path / 'base.safetensors', clip_folders.plain_model(), layout)
        folder, model, _ = make_folder(tmp_path / 'adapter', base=base, params='qkvo', templates=['a {}.', 'the {}'])
        loaded = mmlora.clip.load(folder, device='cpu')
        assert describe_clip(loaded.model) == describe_clip(model)
        assert loaded.classes == tuple(clip_tiny.CLASSES)
        with torch.no_grad():
            torch.testing.assert_close(loaded.model(images()), model(images()), rtol=0, atol=1e-5)

    def test_the_hash_is_that_of_the_weights_whatever_the_layout_and_type(self):
        plain = clip_folders.plain_model()
        found = base_sha256(plain)
        adapted = LoRACLIPClassifier(**clip_tiny.SMALL)
        adapted.load_state_dict(plain.state_dict(), strict=False)
        assert base_sha256(adapted) == base_sha256(adapted.double()) == found
        with torch.no_grad():
            plain.text.ln_final.bias[0] += 1e-3
        assert base_sha256(plain) != found

    def test_other_weights_are_refused_with_both_hashes(self, tmp_path):
        base = clip_folders.write_base(tmp_path / 'base.safetensors', clip_folders.plain_model())
        other = clip_folders.write_base(tmp_path / 'other.safetensors', clip_folders.plain_model(seed=1))
        folder, model, _ = make_folder(tmp_path / 'adapter', base=base)
        hashes = base_sha256(model), base_sha256(clip_folders.plain_model(seed=1))
        with pytest.raises(ValueError, match=f'{hashes[0]} there .*{hashes[1]} here'):
            mmlora.clip.load(folder, other)
        base.unlink()
        with pytest.raises(FileNotFoundError, match=f'sha256 {base_sha256(model)}.*not to be found.*weights='):
            mmlora.clip.load(folder)
        folder, *_ = make_folder(tmp_path / 'nowhere')
        with pytest.raises(ValueError, match='does not say where its frozen weights are .*weights='):
            mmlora.clip.load(folder)

    def test_sizes_are_compared(self, tmp_path):
        wide = clip_folders.write_base(tmp_path / 'wide.safetensors', clip_folders.plain_model(dict(ARCH, embed_dim=6)))
        folder, *_ = make_folder(tmp_path / 'adapter')
        with pytest.raises(ValueError, match=r'CLIP of other sizes: .*proj is \(16, 6\), the model has \(16, 12\)'):
            mmlora.clip.load(folder, wide)

    def test_a_learned_logit_scale_comes_back(self, tmp_path):
        base = clip_folders.write_base(tmp_path / 'base.safetensors', clip_folders.plain_model())
        plain = clip_folders.plain_model()
        model = LoRACLIPClassifier(**clip_tiny.SMALL, logit_scale='learned')
        model.load_state_dict(plain.state_dict(), strict=False)
        clip_tiny.fill(model).eval().logit_scale.data.fill_(1.2345)
        cfg = Config(dict(model=dict(tokenizer=clip_tiny.SMALL['tokenizer'])))
        folder = write_run(tmp_path / 'adapter', cfg, model, {}, {})
        loaded = mmlora.clip.load(folder, base, device='cpu').model
        assert loaded.logit_scale.item() == pytest.approx(1.2345) and loaded.scale.learned
        assert 'peft does not load the logit scale' in (folder / 'README.md').read_text()


class TestFolder:
    def test_only_an_adapter_is_replaced(self, tmp_path):
        (tmp_path / 'mine').mkdir()
        (tmp_path / 'mine' / 'thesis.tex').write_text('')
        with pytest.raises(ValueError, match=r"is no adapter folder and holds \['thesis.tex'\]"):
            make_folder(tmp_path / 'mine')
        make_folder(tmp_path / 'adapter')
        (tmp_path / 'adapter' / 'adapter_config.json').unlink()  # As a kill leaves it that comes before the last file.
        folder, *_ = make_folder(tmp_path / 'adapter', lora_rank=4)
        assert read_folder(folder).settings['rank'] == 4

    def test_a_metric_that_is_not_defined(self, tmp_path):
        model = clip_tiny.fill(LoRACLIPClassifier(**clip_tiny.SMALL))
        cfg = Config(dict(model=dict(tokenizer=clip_tiny.SMALL['tokenizer'])))
        folder = write_run(tmp_path / 'adapter', cfg, model, {}, [
            result_row('validation', 'auc', float('nan'), 9), result_row('validation', 'accuracy/top1', 50.0, 9)])
        assert read_folder(folder).record['metrics'] == {'val/auc': None, 'val/accuracy/top1': 50.0}
        assert '| validation | auc | not defined | not known | 9 |' in (folder / 'README.md').read_text()

    DAMAGE = {
        'no JSON': ('mmlora.json', '{', 'is no JSON'),
        'another format': ('mmlora.json', '{"format": "2"}', "format='2', this version reads"),
        'no model': ('mmlora.json', '{"format": "mmlora CLIP adapter 1"}', 'arch of model is missing'),
        'a list': ('adapter_config.json', '[]', 'must hold an object, got a list'),
        'no weights': ('adapter_model.safetensors', None, 'adapter_model.safetensors'),
        'no config': ('adapter_config.json', None, 'is no adapter folder: it has no adapter_config.json'),
    }

    @pytest.mark.parametrize('case', DAMAGE)
    def test_damage_is_named(self, tmp_path, case):
        name, text, message = self.DAMAGE[case]
        folder, *_ = make_folder(tmp_path / 'adapter')
        if text is None:
            (folder / name).unlink()
        else:
            (folder / name).write_text(text)
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            read_folder(folder)

    CHANGED = {
        'another alpha': (dict(model=dict(alpha=4.0)), "scaling='alpha/sqrt.*alpha=4.0 gives 2.82"),
        'an unknown scaling': (dict(model=dict(scaling='alpha')), "unknown scaling 'alpha'"),
        'no statistics': (dict(images=dict(_delete='mean')), 'images must hold steps, mean, std, to_rgb, got'),
        'no place': (dict(base=dict(_delete='location')), 'base must hold sha256, location, got'),
        'no tokenizer': (dict(tokenizer=dict(_delete='type')), 'tokenizer must hold type, got'),
    }

    @pytest.mark.parametrize('case', CHANGED)
    def test_a_record_that_contradicts_itself_is_refused(self, tmp_path, case):
        changes, message = self.CHANGED[case]
        folder, *_ = make_folder(tmp_path / 'adapter')
        record = json.loads((folder / 'mmlora.json').read_text())
        for part, change in changes.items():
            record[part].update(change)
            record[part].pop(change.get('_delete'), None)
        (folder / 'mmlora.json').write_text(json.dumps(record))
        with pytest.raises(ValueError, match=message):
            read_folder(folder)

    def test_factors_of_another_run_are_noticed(self, tmp_path):
        """As a kill leaves them that comes between two files."""
        folder, other = (make_folder(tmp_path / name, lora_alpha=2)[0] for name in 'ab')
        tensors = {key: value + 1 for key, value in load_file(other / 'adapter_model.safetensors').items()}
        save_file(tensors, str(folder / 'adapter_model.safetensors'))
        with pytest.raises(ValueError, match='is about factors with the sha256 .* do not belong together'):
            read_folder(folder)

    def test_a_folder_builds_nothing_but_known_parts(self, tmp_path):
        base = clip_folders.write_base(tmp_path / 'base.safetensors', clip_folders.plain_model())
        folder, *_ = make_folder(tmp_path / 'adapter', base=base)
        path = folder / 'mmlora.json'
        record = json.loads(path.read_text())
        for key, value, message in (
            ('tokenizer', dict(type='HFAutoTokenizer'), "asks for the tokenizer 'HFAutoTokenizer'"),
            ('images', dict(record['images'], steps=[dict(type='Collect')]), 'prepares images by .*Collect'),
        ):
            path.write_text(json.dumps({**record, key: value}))
            with pytest.raises(ValueError, match=message):
                mmlora.clip.load(folder)

    def test_other_methods_have_none(self):
        model = LoRACLIPClassifier(**clip_tiny.SMALL, encoder='none')
        assert "encoder='none') has no LoRA" in why_no_folder(model)
        model = LoRACLIPClassifier(**clip_tiny.SMALL)
        assert why_no_folder(model) is None
        model.text.ln_final.weight.requires_grad_(True)
        assert "a LoRA of peft cannot hold: ['text.ln_final.weight']" in why_no_folder(model)
        assert 'the model is a Linear' in why_no_folder(torch.nn.Linear(1, 1))

    def test_steps_that_a_folder_cannot_name(self):
        preprocessor = LoRACLIPClassifier(**clip_tiny.SMALL).data_preprocessor
        about = describe_images([*published_steps(16), dict(type='RandomFlip', prob=0.5)], preprocessor)
        assert about['steps'] is None and about['why'] == 'RandomFlip(prob=0.5)'
        assert describe_images(published_steps(16), preprocessor)['steps'] == published_steps(16)
        assert not is_known(dict(type='Resize', scale=dict(type='x'))) and is_known(dict(type='Resize', scale=(2, 3)))


class TestPublished:
    def config(self):
        tokenizer = dict(type='WordTokenizer', vocabulary=['a'])
        return Config(dict(model=dict(type='LoRACLIP', arch=clip_tiny.golden_arch(), tokenizer=tokenizer)))

    def test_the_golden_file_computes_what_the_published_code_did(self, tmp_path):
        weights = clip_tiny.FOLDER / 'tiny_clip_state_dict.npz'
        folder = mmlora.clip.import_clip_lora(PUBLISHED, tmp_path / 'adapter', config=self.config(),
                                              weights=str(weights))
        loaded = mmlora.clip.load(folder, device='cpu')
        expected = clip_tiny.arrays('train_both_qkv_lr1e-2')
        inputs = clip_tiny.arrays('tiny_clip_inputs')
        found = clip_folders.own_features(loaded.model, inputs['test_img'], inputs['tokens'])
        torch.testing.assert_close(found[0], expected['final_image_features'], rtol=0, atol=1e-4)
        torch.testing.assert_close(found[1], expected['final_text_features'], rtol=0, atol=1e-4)
        plain = clip_folders.own_features(clip_tiny.golden_model().eval(), inputs['test_img'], inputs['tokens'])
        assert all((a - b).abs().max() > 0.1 for a, b in zip(found, plain, strict=True))
        record = read_folder(folder).record
        assert record['protocol'] == dict(method='CLIP-LoRA', dataset_name='tiny', shot=1, seed=1)
        assert loaded.classes is None and labels_of(PUBLISHED)['backbone'] == 'ViT-B/16'
        with pytest.raises(RuntimeError, match='names no classes: give them when it is loaded'):
            loaded.predict(np.zeros((8, 8, 3), np.uint8))

    def layers(self, text, vision, params='qkv', rank=2, widths=(512, 768)):
        names = {'q': 'q_proj', 'k': 'k_proj', 'v': 'v_proj', 'o': 'proj'}
        sizes = [widths[0]] * text + [widths[1]] * vision
        return {f'layer_{i}': {names[p]: {'w_lora_A': torch.full((rank, d), float(i)), 'w_lora_B': torch.zeros(d, rank)}
                               for p in params} for i, d in enumerate(sizes)}

    def write(self, path, weights, **metadata):
        path.parent.mkdir(parents=True, exist_ok=True)
        about = dict(r=2, alpha=1, encoder='both', params=['q', 'k', 'v'], position='all')
        torch.save(dict(weights=weights, metadata={**about, **metadata}), path)
        return path

    POSITIONS = [  # backbone, position, layers of text and vision in the file, blocks of the vision tower, old table?
        ('ViT-B/16', 'all', 12, 12, range(12), False),
        ('ViT-B/16', 'up', 4, 4, range(8, 12), False),
        ('ViT-B/16', 'top3', 3, 3, range(9, 12), False),
        ('ViT-B/32', 'half-bottom', 6, 6, range(6), False),
        ('ViT-L/14', 'all', 12, 24, range(24), False),
        ('ViT-L/14', 'all', 12, 21, range(21), True),
        ('ViT-L/14', 'half-up', 6, 12, range(12, 24), False),
        ('ViT-L/14', 'half-up', 6, 6, range(6, 12), True),
        ('ViT-L/14', 'bottom', 4, 4, range(4), True),
    ]

    @pytest.mark.parametrize('backbone, position, text, vision, blocks, old', POSITIONS)
    def test_positions_now_and_before(self, tmp_path, backbone, position, text, vision, blocks, old):
        widths = (768, 1024) if backbone == 'ViT-L/14' else (512, 768)
        path = self.write(tmp_path / 'x.pt', self.layers(text, vision, widths=widths), position=position)
        depths = dict(text=12, vision=24 if backbone == 'ViT-L/14' else 12)
        factors, tables = place_layers(
            read_published_lora(path), depths, dict(zip(('text', 'vision'), widths, strict=True)), backbone)
        assert sorted({site.block for site in factors if site.tower == 'vision'}) == list(blocks)
        first = next(pair for site, pair in factors.items() if site == ('vision', blocks[0], 'q'))
        assert first[0][0, 0] == text and ('until' in tables['vision']) == old

    WRONG = {
        'too few layers': (dict(text=12, vision=11), {}, r'has 23 layers, and .*12 of the text tower \+ 12 of the vis'),
        'another backbone': (dict(text=12, vision=12, widths=(768, 1024)), {}, 'is for a width of 768, and .*512'),
        'an unknown position': (dict(text=1, vision=1), dict(position='middle'), "position='middle' is unknown.*'mid'"),
        'another rank': (dict(text=12, vision=12), dict(r=4), r'w_lora_A \(4, d\).*has \(2, 512\)'),
        'other params': (dict(text=12, vision=12), dict(params=['q', 'v']), "adapts 'qkv', and params say 'qv'"),
        'unknown params': (dict(text=12, vision=12), dict(params=['q', 'x']), r"got \['q', 'x'\]"),
        'params that are no list': (dict(text=12, vision=12), dict(params=3), 'each once, got 3'),
        'an unknown encoder': (dict(text=12, vision=12), dict(encoder='all'), "got 'all'"),
        'a list of encoders': (dict(text=12, vision=12), dict(encoder=['both']), r"got \['both'\]"),
        'one tower': (dict(text=12, vision=12), dict(encoder='text'), 'has 24 layers.*12 of the text tower'),
        'no alpha': (dict(text=12, vision=12), dict(alpha='1'), "alpha must be a number, got '1'"),
        'no rank': (dict(text=12, vision=12), dict(r=0), 'r must be an integer of at least 1, got 0'),
    }  # fmt: skip

    @pytest.mark.parametrize('case', WRONG)
    def test_contradictions_quote_both_sides(self, tmp_path, capsys, case):
        sizes, metadata, message = self.WRONG[case]
        path = self.write(tmp_path / 'x.pt', self.layers(**sizes), **metadata)
        code = tiny.call_tool('import_clip_lora', path, '--out', tmp_path / 'out', '--backbone', 'ViT-B/16')
        error = capsys.readouterr().err
        assert code == 2 and re.search(message, error), error
        assert not (tmp_path / 'out').exists()

    def test_other_files_are_refused(self, tmp_path):
        weights = self.layers(12, 12)
        weights['layer_3']['fc1'] = weights['layer_3'].pop('q_proj')
        with pytest.raises(ValueError, match=r"layer_3 has the projections \['fc1'\]; known are"):
            read_published_lora(self.write(tmp_path / 'x.pt', weights))
        weights = self.layers(12, 12)
        weights['layer_99'] = weights.pop('layer_5')
        with pytest.raises(ValueError, match='numbered from layer_0 on without a gap'):
            read_published_lora(self.write(tmp_path / 'x.pt', weights))
        torch.save(dict(state_dict={}), tmp_path / 'y.pt')
        with pytest.raises(ValueError, match="must hold 'weights' and 'metadata', and holds .'state_dict'"):
            read_published_lora(tmp_path / 'y.pt')

    def test_elsewhere_the_file_leads_to_the_tool(self):
        with pytest.raises(ValueError, match='is a file of the published CLIP-LoRA code.*tools/import_clip_lora.py'):
            load_checkpoint(PUBLISHED)

    def test_labels_come_from_the_path_and_must_not_be_contradicted(self, tmp_path, capsys):
        place = tmp_path / 'vitb32' / 'fgvc' / '4shots' / 'seed2' / 'x.pt'
        path = self.write(place, self.layers(12, 12))
        names = tmp_path / 'names.txt'
        names.write_text('A300\nA310\n')
        assert not tiny.call_tool('import_clip_lora', path, '--out', tmp_path / 'out')
        record = read_folder(tmp_path / 'out').record
        assert record['model']['backbone'] == 'ViT-B/32' and record['base'] == dict(sha256=None, location=None)
        assert record['protocol'] == dict(method='CLIP-LoRA', dataset_name='fgvc_aircraft', shot=4, seed=2)
        for more, message in (
            (['--backbone', 'ViT-B/16'], 'the given backbone says ViT-B/16, the path says ViT-B/32'),
            (['--dataset', 'dtd'], "of the data set 'fgvc' by its path, and 'dtd' is given"),
            (['--template', 'no place'], 'templates must each have one {}'),
            (['--classes', 'a', '--data-root', 'x'], 'give one of both'),
        ):
            assert tiny.call_tool('import_clip_lora', path, '--out', tmp_path / 'out', *more) == 2
            assert message in capsys.readouterr().err
        shutil.copy(path, tmp_path / 'alone.pt')
        assert tiny.call_tool('import_clip_lora', tmp_path / 'alone.pt', '--out', tmp_path / 'out') == 2
        assert 'does not say its backbone' in capsys.readouterr().err
        if importlib.util.find_spec('open_clip') is None:
            return
        assert not tiny.call_tool('import_clip_lora', path, '--out', tmp_path / 'out', '--classes-file', names)
        assert read_folder(tmp_path / 'out').settings['classes'] == ['A300', 'A310']
        assert tiny.call_tool('import_clip_lora', path, '--out', tmp_path / 'out', '--classes', 'word ' * 80) == 2
        assert 'tokens, start and end included, and the context 77' in capsys.readouterr().err


class TestPredict:
    @pytest.fixture
    def loaded(self, tmp_path):
        base = clip_folders.write_base(tmp_path / 'base.safetensors', clip_folders.plain_model())
        plain = clip_folders.plain_model()
        model = LoRACLIPClassifier(**clip_tiny.SMALL)
        model.load_state_dict(plain.state_dict(), strict=False)
        cfg = Config(dict(
            model=dict(tokenizer=clip_tiny.SMALL['tokenizer']),
            test_dataloader=dict(dataset=dict(pipeline=[*published_steps(16), dict(type='PackInputs')]))))  # fmt: skip
        return mmlora.clip.load(write_run(tmp_path / 'adapter', cfg, clip_tiny.fill(model), {}, {}), base, 'cpu')

    def test_paths_images_and_arrays_are_the_same(self, tmp_path, loaded):
        array = np.random.default_rng(0).integers(0, 255, (24, 40, 3), dtype=np.uint8)
        Image.fromarray(array).save(tmp_path / 'x.png')
        found = loaded.predict([tmp_path / 'x.png', str(tmp_path / 'x.png'), Image.fromarray(array), array])
        one = loaded.predict(array)
        assert all(each.scores == pytest.approx(one.scores, abs=1e-5) for each in found)
        assert one.name == clip_tiny.CLASSES[one.label] and one.score == max(one.scores)
        assert sum(one.scores) == pytest.approx(1, abs=1e-5) and one.top(2)[0] == (one.name, one.score)
        small = Image.fromarray(array).resize((26, 16), Image.BICUBIC).crop((5, 0, 21, 16))
        pixels = torch.from_numpy(np.asarray(small, dtype=np.float32)).permute(2, 0, 1)[None]
        statistics = loaded.model.data_preprocessor
        pixels = (pixels - statistics.mean) / statistics.std
        with torch.no_grad():
            expected = loaded.model(pixels).softmax(1)[0]
        assert list(one.scores) == pytest.approx(expected.tolist(), abs=1e-5)
        assert not torch.allclose(loaded.encode_images(array), loaded.encode_images(array[..., ::-1].copy()), atol=1e-3)
        assert loaded.predict([]) == [] and str(one) == f'{one.name} ({one.score:.3f})'

    WRONG = [('nowhere.png', FileNotFoundError, "no image 'nowhere.png'"), (3, TypeError, 'got a int'),
             (np.zeros((4, 4, 3)), ValueError, 'of float64'), (np.zeros((4, 4), np.uint8), ValueError, r'\(4, 4\)')]

    @pytest.mark.parametrize('image, kind, message', WRONG)
    def test_what_is_no_image(self, loaded, image, kind, message):
        with pytest.raises(kind, match=message):
            loaded.predict([image])


@pytest.fixture(scope='module')
def run(tmp_path_factory, images):
    folder = tmp_path_factory.mktemp('clip_run')
    base = clip_folders.base_of_config(folder / 'base.safetensors')
    tiny.call_tool('train', clip_folders.CONFIG, '--work-dir', folder / 'run',
                   *clip_folders.options(images, base, 'train_cfg.max_epochs=2'))
    return folder / 'run'


def accuracies(folder):
    [log] = folder.glob('*/*.log')
    return [float(number) for number in re.findall(r'accuracy/top1: ([\d.]+)', log.read_text())]


class TestRun:
    def test_training_leaves_a_folder_that_the_tools_take(self, tmp_path, run):
        config, adapter = run / 'tiny_clip.py', tmp_path / 'run' / 'adapter'
        shutil.copytree(run / 'adapter', adapter)
        tiny.call_tool('test', config, adapter, '--work-dir', tmp_path / 'test')
        assert accuracies(tmp_path / 'test') == accuracies(run)[-1:]
        card = (run / 'adapter' / 'README.md').read_text()
        assert re.search(r'\| validation \| accuracy/top1 \| [\d.]+ \| [\d.]+ to [\d.]+ \| \d+ \|', card)
        assert re.search(r'\| training images \| \d+ of images \(fingerprint [0-9a-f]{16}', card)
        assert str(run.parent) not in card and '| base weights | base.safetensors |' in card
        assert 'class0, class1, class2.' in card and 'epoch 2 of 2' in card
        assert not (tmp_path / 'test' / 'results.json').exists()
        [entry] = json.loads((tmp_path / 'run' / 'results.json').read_text())['results']
        assert entry['protocol']['selection'] == 'last epoch'
        assert entry['checkpoint'] == dict(
            name='adapter', sha256=sha256_of(run / 'adapter' / 'adapter_model.safetensors'))

    def test_a_folder_that_was_not_trained_here(self, tmp_path, run):
        """As import_clip_lora writes them: nothing is known of what chose the weights."""
        shutil.copytree(run / 'adapter', tmp_path / 'adapter')
        path = tmp_path / 'adapter' / 'mmlora.json'
        about = dict(method='CLIP-LoRA', dataset_name='elsewhere', shot=4, seed=2)
        path.write_text(json.dumps({**json.loads(path.read_text()), 'protocol': about}))
        tiny.call_tool('test', run / 'tiny_clip.py', tmp_path / 'adapter', '--work-dir', tmp_path / 'test')
        [entry] = json.loads((tmp_path / 'test' / 'results.json').read_text())['results']
        assert entry['protocol'] | dict(selection='unknown', at=None, on_test=None) == entry['protocol']
        assert [entry[name] for name in ('method', 'trained_on', 'shot', 'seed')] == ['CLIP-LoRA', 'elsewhere', 4, 2]

    def test_exporting_the_checkpoint_gives_the_same_folder(self, tmp_path, run):
        config = run / 'tiny_clip.py'
        assert not tiny.call_tool('export_adapter', config, run / 'epoch_2.pth', '--out', tmp_path / 'adapter')
        first, second = (read_folder(path) for path in (run / 'adapter', tmp_path / 'adapter'))
        assert tiny.differing(dict(first.config), dict(second.config)) == []
        assert set(first.factors) == set(second.factors)
        assert all(torch.equal(a, b) for site, pair in first.factors.items()
                   for a, b in zip(pair, second.factors[site], strict=True))
        same = ('model', 'base', 'tokenizer', 'images', 'protocol')
        assert [first.record[name] for name in same] == [second.record[name] for name in same]

    def test_the_card_has_the_tests_of_this_checkpoint_alone(self, tmp_path, run):
        config, checkpoint, out = run / 'tiny_clip.py', tmp_path / 'epoch_2.pth', tmp_path / 'adapter'
        shutil.copy(run / 'epoch_2.pth', checkpoint)
        tiny.call_tool('test', config, checkpoint, '--work-dir', tmp_path / 'test')
        assert not tiny.call_tool('export_adapter', config, checkpoint, '--out', out)
        [name] = [name for name in read_folder(out).record['metrics'] if name.endswith(' test: accuracy/top1')]
        assert read_folder(out).record['metrics'][name] == pytest.approx(accuracies(run)[-1], abs=0.01)
        results = tmp_path / 'results.json'
        content = json.loads(results.read_text())
        content['results'][0]['checkpoint']['sha256'] = 64 * '0'  # Of an earlier run into the same folder.
        results.write_text(json.dumps(content))
        assert not tiny.call_tool('export_adapter', config, checkpoint, '--out', out)
        assert name not in read_folder(out).record['metrics']

    def test_predictions_are_those_of_the_test(self, tmp_path, images, run):
        loaded = mmlora.clip.load(run / 'adapter', device='cpu')
        paths = sorted(images.glob('*/*.png'))
        right = [each.name == path.parent.name for each, path in zip(loaded.predict(paths), paths, strict=True)]
        assert 100 * np.mean(right) == pytest.approx(accuracies(run)[-1], abs=0.01)

    def test_merging_a_folder_is_merging_its_checkpoint(self, tmp_path, run):
        for name, source in (('a', run / 'adapter'), ('b', run / 'epoch_2.pth')):
            tiny.call_tool('merge', run / 'tiny_clip.py', source, tmp_path / f'{name}.safetensors')
        first, second = (load_file(tmp_path / f'{name}.safetensors') for name in 'ab')
        assert tiny.differing(first, second) == []

    def test_the_base_of_a_run_that_started_from_a_folder_is_that_of_the_folder(self, run):
        base = str(run.parent / 'base.safetensors')
        assert base_location(Config(dict(model=dict(), load_from=str(run / 'adapter')))) == base
        assert base_location(Config(dict(model=dict(), load_from='x.pth'))) == 'x.pth'
        assert base_location(Config(dict(model=dict(), load_from='x.pth', resume=True))) is None

    def test_the_folder_holds_the_average_where_the_run_is_validated_by_it(self, tmp_path, run):
        cfg = Config.fromfile(run / 'tiny_clip.py')
        cfg.custom_hooks.insert(0, dict(type='EMAHook', momentum=0.3))
        cfg.train_cfg.max_epochs, cfg.work_dir = 1, str(tmp_path / 'run')
        train(cfg)
        checkpoint = tiny.load(tmp_path / 'run' / 'epoch_1.pth')
        average, last = checkpoint['state_dict'], checkpoint['ema_state_dict']
        found = own_tensors(read_folder(tmp_path / 'run' / 'adapter').factors)
        assert all(torch.equal(value, average[name]) for name, value in found.items())
        assert any(not torch.equal(value, last[f'module.{name}']) for name, value in found.items())
        protocol = read_folder(tmp_path / 'run' / 'adapter').record['protocol']
        assert protocol['averaged'] and protocol == shown_paths(checkpoint['meta']['mmlora']['protocol'])

    def test_another_folder_in_the_way_is_named_before_training(self, tmp_path, run):
        cfg = Config.fromfile(run / 'tiny_clip.py')
        cfg.work_dir = str(tmp_path)
        (tmp_path / 'adapter').mkdir()
        (tmp_path / 'adapter' / 'notes.txt').write_text('')
        with pytest.raises(ValueError, match=r"is no adapter folder and holds \['notes.txt'\]"):
            train(cfg)
        assert not list(tmp_path.glob('*.pth'))

    def test_words_of_a_file_come_along(self, tmp_path):
        (tmp_path / 'words.txt').write_text('\n'.join(clip_tiny.WORDS))
        folder, *_ = make_folder(tmp_path / 'adapter', tokenizer=dict(
            type='WordTokenizer', vocabulary=str(tmp_path / 'words.txt')))
        assert read_folder(folder).record['tokenizer'] == clip_tiny.SMALL['tokenizer']

    def test_a_new_run_may_start_from_the_folder(self, tmp_path, images, run):
        base = run.parent / 'base.safetensors'
        more = ['train_cfg.max_epochs=1', f'load_from={run / "adapter"}', 'optim_wrapper.optimizer.lr=0']
        tiny.call_tool('train', clip_folders.CONFIG, '--work-dir', tmp_path, *clip_folders.options(images, base, *more))
        assert accuracies(tmp_path) == accuracies(run)[-1:]

    DIFFERENT = {
        'rank': (['model.lora_rank=3'], 'rank is 4 there and 3 in the config'),
        'alpha': (['model.lora_alpha=2'], 'alpha is 1.0 there and 2.0 in the config'),
        'scaling': (['model.lora_scaling=constant'], "scaling is 'alpha/sqrt(r)' there and 'constant' in the config"),
        'encoder': (['model.encoder=vision'], "encoder is 'both' there and 'vision' in the config"),
        'params': (['model.params=qv'], "params is ['q', 'k', 'v', 'o'] there and ['q', 'v'] in the config"),
        'layers': (['model.layers=top1'], "layers is {'text': [0, 1], 'vision': [0, 1, 2]} there and {'text': [1], 'v"),
        'backbone': (['model.arch.embed_dim=4'], "another backbone: {'embed_dim': 8} there, {'embed_dim': 4} in the c"),
        'a named backbone': (['model.arch.activation=gelu'], "backbone: {'activation': 'quick_gelu'} there"),
        'templates': (['model.templates=.{}'], "templates are ['a photo of a {}.'] there and ['.{}'] in"),
        'classes': (['model.classes=[class0,class1,photo]'], "'class2'] there and ['class0', 'class1', 'photo'] in"),
        'logit scale': (['model.logit_scale=pretrained'], "logit_scale is 100.0 there and 'pretrained' in the config"),
    }

    @pytest.mark.parametrize('case, source', [
        *((case, 'adapter') for case in DIFFERENT), ('rank', 'epoch_2.pth'), ('classes', 'epoch_2.pth')])
    def test_what_differs_is_quoted(self, tmp_path, run, case, source):
        more, message = self.DIFFERENT[case]
        with pytest.raises(ValueError, match=re.escape(message)):
            tiny.call_tool('test', run / 'tiny_clip.py', run / source, '--work-dir', tmp_path, '--cfg-options', *more)

    def test_what_may_differ(self, tmp_path, run):
        more = ['model.lora_dropout=0.5', 'model.params=okvq', 'model.layers.vision=[2,1,0]', 'model.layers.text=all']
        tiny.call_tool('test', run / 'tiny_clip.py', run / 'adapter', '--work-dir', tmp_path / 'a', '--cfg-options',
                       *more)
        assert accuracies(tmp_path / 'a') == accuracies(run)[-1:]
        cfg = Config.fromfile(run / 'tiny_clip.py')
        cfg.model.classes = ['class0', 'class1', 'photo']
        cfg.custom_hooks.append(dict(type='StrictLoadHook', other_prompts=True))
        cfg.custom_hooks = [h for h in cfg.custom_hooks if 'Strict' not in h['type'] or h.get('other_prompts')]
        cfg.dump(tmp_path / 'other.py')
        tiny.call_tool('test', tmp_path / 'other.py', run / 'adapter', '--work-dir', tmp_path / 'b')
        cfg = Config.fromfile(run / 'tiny_clip.py')
        cfg.test_dataloader.dataset.metainfo = dict(classes=['class0', 'class1', 'photo'])
        cfg.dataset_name = 'another set'
        cfg.dump(tmp_path / 'set.py')
        tiny.call_tool('test', tmp_path / 'set.py', run / 'adapter', '--work-dir', tmp_path / 'c')
        [log] = (tmp_path / 'c').glob('*/*.log')
        assert 'meets other prompts on another set: classes are' in log.read_text()

    def test_resuming_compares_too(self, tmp_path, images, run):
        base = run.parent / 'base.safetensors'
        shutil.copy(run / 'epoch_1.pth', tmp_path)
        with pytest.raises(ValueError, match='rank is 4 there and 2 in the config'):
            tiny.call_tool('train', clip_folders.CONFIG, '--work-dir', tmp_path, '--resume', tmp_path / 'epoch_1.pth',
                           *clip_folders.options(images, base, 'model.lora_rank=2'))

    def test_other_frozen_weights_are_refused(self, tmp_path, run):
        other = clip_folders.base_of_config(tmp_path / 'other.safetensors', seed=5)
        with pytest.raises(ValueError, match='was made on other frozen weights than those of .*other.safetensors'):
            tiny.call_tool('test', run / 'tiny_clip.py', run / 'adapter', '--work-dir', tmp_path, '--cfg-options',
                           f'model.init_cfg.checkpoint={other}')

    @pytest.mark.parametrize('layout', ['open_clip', 'openai', 'hf'])
    def test_merged_weights_under_the_names_of_others(self, tmp_path, run, layout):
        out = tmp_path / 'merged.safetensors'
        tiny.call_tool('merge', run / 'tiny_clip.py', run / 'epoch_2.pth', out, '--layout', layout)
        assert 'all ranks are 0' not in ''.join(p.read_text() for p in tmp_path.glob('*.log'))
        arch = dict(Config.fromfile(run / 'tiny_clip.py').model.arch)
        adapted = mmlora.clip.load(run / 'adapter', device='cpu').model
        x, tokens = images_of(32), torch.tensor([[14, 1, 2, 15, 0], [14, 5, 15, 0, 0]])
        expected = clip_folders.own_features(adapted, x, tokens)
        if layout == 'hf':
            hf = clip_folders.hf_model(arch)
            state, own = load_file(out), hf.state_dict()
            assert {k for k in own if not k.endswith('position_ids')} == set(state)
            hf.load_state_dict(state, strict=False)
            found = clip_folders.hf_features(hf, x, tokens)
        else:
            models = pytest.importorskip('open_clip.model')
            vision = models.CLIPVisionCfg(layers=3, width=16, head_width=8, patch_size=16, image_size=32)
            text = models.CLIPTextCfg(context_length=10, vocab_size=16, width=16, heads=2, layers=2)
            other = models.CLIP(embed_dim=8, vision_cfg=vision, text_cfg=text, quick_gelu=True).eval()
            other.load_state_dict(load_file(out), strict=True)
            tokens = torch.nn.functional.pad(tokens, (0, 5))
            with torch.no_grad():
                found = [other.encode_image(x), other.encode_text(tokens)]
        for theirs, own in zip(found, expected, strict=True):
            torch.testing.assert_close(theirs, own, **CLOSE)
        tiny.call_tool('test', tmp_path / 'merged.py', out, '--work-dir', tmp_path / 'test')
        assert accuracies(tmp_path / 'test') == accuracies(run)[-1:]


def images_of(size):
    return clip_tiny.images(3, size).float()
