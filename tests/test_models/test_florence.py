"""Florence-2 with LoRA at a tiny size: text, loss, boxes, task vectors, checkpoints, peft, and whole runs."""

import csv
import inspect
import json
import re

import pytest
import torch
from mmengine.config import Config
from mmpretrain.structures import DataSample

transformers = pytest.importorskip('transformers')
pytest.importorskip('transformers.models.florence2')
pytest.importorskip('faster_coco_eval')

import florence_tiny  # noqa: E402
import tiny  # noqa: E402
from tiny import quick  # noqa: E402, F401

from mmlora.adapters import adapted_layers, inject  # noqa: E402
from mmlora.adapters.lora_spec import LoRASpec  # noqa: E402
from mmlora.apis import test as run_test  # noqa: E402
from mmlora.apis import train  # noqa: E402
from mmlora.apis.florence import export_florence, florence_task_vector, load_detector  # noqa: E402
from mmlora.io.lora_banks import LoRABanks  # noqa: E402
from mmlora.io.task_vectors import TaskVectors  # noqa: E402
from mmlora.models.florence import FlorenceDetector  # noqa: E402
from mmlora.models.florence.confidence import CONFIDENCES  # noqa: E402
from mmlora.models.florence.detector import TARGETS  # noqa: E402
from mmlora.models.florence.text import PROMPTS, FlorenceText, prompt_of  # noqa: E402
from mmlora.models.florence.weights import image_tokens  # noqa: E402
from mmlora.models.generators import DecoderStates  # noqa: E402
from mmlora.ranks import weights_sha256  # noqa: E402

SUFFIXES = ['dog<loc_1><loc_2><loc_3><loc_4>', 'hot dog<loc_5><loc_6><loc_7><loc_8><loc_9><loc_10><loc_11><loc_12>', '']
LINES = [dict(image=f'{number}.png', prefix='<OD>', suffix=f'dog<loc_{number}><loc_10><loc_600><loc_700>')
         for number in range(4)] + [dict(image='4.png', suffix='cat<loc_1><loc_2><loc_3><loc_4>')]  # fmt: skip


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    return str(florence_tiny.write_florence(tmp_path_factory.mktemp('florence')))


@pytest.fixture
def model(weights):
    torch.manual_seed(0)
    return FlorenceDetector(weights, lora_rank=2, max_new_tokens=6, data_preprocessor=dict(mean=[0.0], std=[1.0]))


def samples(suffixes=SUFFIXES):
    return [DataSample(prefix='<OD>', suffix=suffix) for suffix in suffixes]


def images(count=3):
    return torch.randn(count, 3, florence_tiny.SIZE, florence_tiny.SIZE, generator=torch.Generator().manual_seed(0))


def wake(model):
    """Give B values, as training does."""
    generator = torch.Generator().manual_seed(1)
    for layer in adapted_layers(model).values():
        layer.lora_B.data.normal_(generator=generator)
    return model


@pytest.mark.parametrize('vocabulary, count', [(51289, 241241), (51328, 241280)])
def test_the_published_number_of_parameters(vocabulary, count):
    text = dict(model_type='bart', vocab_size=vocabulary, **florence_tiny.BASE)
    config = transformers.Florence2Config(vision_config=dict(projection_dim=768), text_config=text)
    with torch.device('meta'):
        florence = transformers.Florence2ForConditionalGeneration(config)
        layers = inject(florence, TARGETS, 1, slices=None)
    assert len(layers) == 91 and image_tokens(config.vision_config, 768, 768) == 577
    assert sum(layer.lora_A.numel() + layer.lora_B.numel() for layer in layers.values()) == count


def test_text_is_that_of_the_processor(weights):
    tokenizer = florence_tiny.make_tokenizer()
    text = FlorenceText(tokenizer, florence_tiny.SPECIAL.index('<image>'))
    ids, mask = text.prompts(['<OD>', 'Where?'], 5)
    prompt = PROMPTS['<OD>']
    assert tokenizer.decode(ids[0]) == '<image>' * 5 + f'<s>{prompt}</s>'
    assert mask.sum(1).tolist() == [5 + 2 + len(prompt), 5 + 2 + len('Where?')] and (ids[1][mask[1] == 0] == 1).all()
    labels = text.labels(SUFFIXES)
    assert tokenizer.decode(labels[0][labels[0] >= 0]) == f'<s>{SUFFIXES[0]}</s>'
    assert (labels[0][5 + 4:] == -100).all() and labels[2].tolist() == [0, 2] + [-100] * (labels.shape[1] - 2)

    tokenizer.image_token, tokenizer.image_token_id = '<image>', 4
    post = transformers.models.florence2.processing_florence2.Florence2PostProcessor(None, tokenizer)
    cases = [*SUFFIXES, 'dog<loc_1><loc_2><loc_3>', 'cat<loc_1><loc_2><loc_3><loc_4><loc_5>']
    for case in cases:
        tokens = [0, *tokenizer(case)['input_ids'], 2, 1]
        parsed = post.parse_description_with_bboxes_from_text_and_spans(tokenizer.decode(tokens), (1000, 1000))
        wanted = [(found['cat_name'], found['bbox']) for found in parsed]
        found = text.find_boxes(tokens)
        assert [(box.name, list(box.bins)) for box in found] == wanted
        assert all(tokenizer.decode([tokens[p] for p in box.places[:-4]]).strip() == box.name for box in found)
    for unfinished in ('<loc_1><loc_2><loc_3><loc_4>cat', 'dog<loc_1><loc_2>cat'):
        tokens = tokenizer(f'{unfinished}<loc_9><loc_9><loc_9><loc_9>')['input_ids']
        assert [(box.name, box.bins) for box in text.find_boxes(tokens)] == [('cat', (9,) * 4)]
    processor = transformers.models.florence2.processing_florence2.Florence2Processor
    assert f'"<OD>": "{prompt}"' in inspect.getsource(processor.__init__)


def test_padding_is_left_out_of_the_loss(model):
    model.eval()
    alone = [model(images()[n:n + 1], samples([s]), 'loss')['loss'] for n, s in enumerate(SUFFIXES)]
    lengths = torch.tensor([float((model.text.labels([s]) >= 0).sum()) for s in SUFFIXES])
    together = model(images(), samples(), 'loss')['loss']
    torch.testing.assert_close(together, (torch.stack(alone) * lengths).sum() / lengths.sum(), rtol=1e-5, atol=1e-5)
    assert model(images(), samples(), 'tensor').shape[:2] == model.text.labels(SUFFIXES).shape


def test_factors_learn_alone_and_are_drawn_as_published(model):
    layers = adapted_layers(model)
    assert {name.rsplit('.', 1)[-1] for name in layers} == set(TARGETS)
    assert all(layer.scaling == pytest.approx(8 / 2**0.5) for layer in layers.values())
    weights = model.backbone.name_or_path
    other = [FlorenceDetector(weights, lora_shared_a=seed).backbone.lm_head.lora_A for seed in (3, 3, 4)]
    assert torch.equal(*other[:2]) and not torch.equal(*other[1:]) and not other[0].requires_grad
    drawn = torch.cat([layer.lora_A.flatten() for layer in layers.values()])
    assert drawn.std().item() == pytest.approx(1 / 2, rel=0.05)
    frozen = {name: torch.atleast_1d(value.float()) for name, value in model.backbone.state_dict().items()
              if 'lora_' not in name}
    assert weights_sha256(frozen) == model.base_sha256  # as banks and folders of LoRAs have it
    florence = model.backbone
    assert florence.lm_head.weight is florence.model.language_model.shared.weight
    wake(model).train()
    model(images(), samples(), 'loss')['loss'].backward()
    without = [name for name, p in model.named_parameters() if (p.grad is not None) != ('lora_' in name)]
    assert without == []


def test_vectors_follow_the_data_through_the_model(model):
    spec = LoRASpec.of_model(model)
    order = ['vision_tower.blocks.0.0.spatial_block', 'vision_tower.blocks.0.0.channel_block', 'vision_tower.blocks.3',
             'encoder.layers.0', 'encoder.layers.1', 'decoder.layers.0.self_attn', 'decoder.layers.1', 'lm_head']
    first = [next(n for n, entry in enumerate(spec.entries) if name in entry.key) for name in order]
    assert first == sorted(first)
    assert spec.length == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_boxes_are_generated_and_scored(model, monkeypatch):
    answer = [0, *model.text.tokenizer('dog<loc_5><loc_6><loc_7><loc_8>')['input_ids'], 2]
    sequences = torch.tensor([[2, *answer, 1, 1], [2, 0, 2, *[1] * len(answer)]])
    monkeypatch.setattr(model, '_generate', lambda given: sequences)
    model.eval()
    scores = {}
    for name in CONFIDENCES:
        model.confidence = name
        first, second = model.predict(images(2), samples(SUFFIXES[:2]))
        assert (first.pred_names, first.pred_bins, first.pred_tokens) == (['dog'], [[5, 6, 7, 8]], answer)
        assert second.pred_names == second.pred_scores == []
        (scores[name],) = first.pred_scores
    labels = torch.tensor([[*answer]])
    given = model._prompts(images(1), samples(SUFFIXES[:1]))
    logits = model.backbone(**given, labels=labels).logits
    known = torch.log_softmax(logits, -1)[0, range(len(answer)), answer]
    assert scores['one'] == 1
    assert scores['sequence'] == pytest.approx(known.mean().exp().item(), rel=1e-5)
    assert scores['tokens'] == pytest.approx(known[1:-1].mean().exp().item(), rel=1e-5)


def test_the_task_vector_is_the_mean_of_all_steps(model):
    layer, seen = model.backbone.model.language_model.decoder.layers[-1], []
    handle = layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    batches = [dict(inputs=[image], data_samples=samples([''])) for image in images(2)]
    found = wake(model).train().task_vector(batches)
    handle.remove()
    assert model.training and seen[0].shape == (3, 1, 16)
    torch.testing.assert_close(found, torch.stack([state[:, -1] for state in seen]).mean((0, 1)))
    with pytest.raises(ValueError, match='2 images'):
        model.task_vector([dict(inputs=list(images(2)), data_samples=samples(['', '']))])


def test_bad_arguments_are_refused(weights, tmp_path, model):
    for make, error, message in [
        (lambda: FlorenceDetector(weights, confidence='sure'), ValueError, "confidence must be one of .*'sure'"),
        (lambda: FlorenceDetector(weights, num_beams=0), ValueError, 'num_beams=0'),
        (lambda: FlorenceDetector(weights, init_cfg=dict(type='Pretrained')), ValueError, 'given by pretrained'),
        (lambda: FlorenceDetector(weights, lora_targets=['o_proj']), ValueError, "'o_proj' matches no"),
        (lambda: FlorenceDetector(str(tmp_path / 'none')), FileNotFoundError, 'no folder of a Florence-2'),
        (lambda: prompt_of('<OCR>'), ValueError, "'<OCR>' is no task of detection"),
        (lambda: model(images(), [DataSample()] * 3, 'loss'), ValueError, 'no prefix'),
        (lambda: model(images(1), samples(['dog' + '<loc_1>' * 200]), 'loss'), ValueError, '205 tokens.*can write 128'),
        (lambda: model(images(), samples(), 'other'), ValueError, "'other'"),
    ]:
        with pytest.raises(error, match=message):
            make()
    bart = transformers.BartConfig(d_model=16)
    bart.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a 'bart'"):
        FlorenceDetector(str(tmp_path))


@pytest.mark.parametrize('rank', [1, 2, 4, 8])
def test_each_rank_has_a_config(root, rank):
    cfg = Config.fromfile(root / 'configs' / 'icm_lora' / f'florence-2-base_lora-r{rank}_1xb6-linear-200e_voc2012.py')
    assert (cfg.model.lora_rank, cfg.model.lora_alpha, cfg.model.lora_targets) == (rank, 8, list(TARGETS))
    assert (cfg.train_dataloader.batch_size, cfg.optim_wrapper.optimizer.lr, cfg.train_cfg.max_epochs) == (6, 5e-6, 200)
    assert f'-r{rank}_' in cfg.test_evaluator.csv_file


@pytest.fixture
def cfg(root, weights, tmp_path):
    """The published config over tiny weights, small pictures and one epoch."""
    for split in ('train', 'valid'):
        florence_tiny.write_pictures(tmp_path / 'voc', split, LINES)
    cfg = Config.fromfile(root / 'configs' / 'icm_lora' / 'florence-2-base_lora-r8_1xb6-linear-200e_voc2012-bank.py')
    cfg.merge_from_dict(dict(
        data_root=str(tmp_path / 'voc'), work_dir=str(tmp_path / 'run'), train_cfg=dict(max_epochs=1, val_begin=1),
        model=dict(pretrained=weights, max_new_tokens=4), train_dataloader=dict(batch_size=2, num_workers=0),
        test_dataloader=dict(num_workers=0), optim_wrapper=dict(optimizer=dict(lr=1e-2)),
        test_evaluator=dict(csv_file=str(tmp_path / 'map-{class_name}.csv')),
    ))  # fmt: skip
    cfg.custom_hooks[1].update(folder=str(tmp_path / 'banks'), start=1)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.num_workers = 0
        loader.dataset.pipeline[1].scale = (florence_tiny.SIZE,) * 2
    return cfg


def check_generation(cfg, checkpoint, banks, tuned, tmp_path):
    """From a bank of two classes and vectors of tuned models to an adapter that is tested, by the published pair."""
    banks.add('cat', {key: 0.5 * value for key, value in banks.spec.split(banks.vectors('dog')[0]).items()}, 1, 0.0)
    vectors = tmp_path / 'vectors.safetensors'
    own = florence_task_vector(cfg, checkpoint, vectors, 1)
    described = TaskVectors.open(vectors)
    TaskVectors({**described.vectors, 'cat': -own[None]}, described.record).write(vectors)
    pair = Config.fromfile(tiny.ROOT / 'configs' / 'icm_lora' / 'conv-cvae_florence-2-base_voc2012.py')
    pair.merge_from_dict(dict(bank_folder=str(banks.folder), task_vectors=str(vectors), work_dir=str(tmp_path / 'cvae'),
                              train_cfg=dict(max_epochs=1), model=dict(channels=(2, 2), latent_dim=2),
                              default_hooks=dict(checkpoint=dict(interval=1))))
    pair.dump(tmp_path / 'pair.py')
    train(pair)
    out = tmp_path / 'generated'
    assert tiny.call_tool('generate_lora', tmp_path / 'pair.py', tmp_path / 'cvae' / 'epoch_1.pth', '--task-vectors',
                          vectors, '--task', 'dog', '--out', out) == 0
    record = json.loads((out / 'mmlora.json').read_text())
    assert record['base']['sha256'] == tuned.base_sha256 and record['generated']['task'] == 'dog'
    assert set(run_test(cfg, str(out), record=False)) == {f'detection/mAP{end}' for end in ('_50_95', '_50', '_75')}
    with pytest.raises(ValueError, match='florence.py task-vector'):
        DecoderStates().describe(None, None, images(), torch.zeros(3))


def test_the_published_config_trains_tests_and_exports(cfg, weights, tmp_path, quick):  # noqa: F811
    before = transformers.Florence2ForConditionalGeneration.from_pretrained(weights).state_dict()
    runner = train(cfg)
    plain = {name: value for name, value in runner.model.backbone.named_parameters() if 'lora_' not in name}
    assert all(torch.equal(value.cpu(), before[name]) for name, value in plain.items())
    assert len(runner.train_dataloader.dataset) == 4
    checkpoint = str(tmp_path / 'run' / 'epoch_1.pth')
    state = torch.load(checkpoint, weights_only=True)['state_dict']
    assert {name.rsplit('.', 1)[-1] for name in state} == {'lora_A', 'lora_B', 'base_digest'}
    assert all(state[name].abs().sum() > 0 for name in state)

    banks = LoRABanks.open(tmp_path / 'banks')
    assert [task.name for task in banks.tasks] == ['dog'] and banks.full_spec.keys[-1] == 'lm_head.lora_B'
    assert banks.full_spec.base_sha256 == runner.model.base_sha256
    metrics = run_test(cfg, checkpoint)
    rows = list(csv.reader((tmp_path / 'map-dog.csv').open()))
    assert set(metrics) == {'detection/mAP_50_95', 'detection/mAP_50', 'detection/mAP_75'}
    assert [row[0] for row in rows] == ['class', 'mean', 'dog'] and float(rows[1][1]) == metrics['detection/mAP_50_95']

    tuned = load_detector(cfg, checkpoint)
    folder = export_florence(cfg, checkpoint, tmp_path / 'adapter')
    assert json.loads((folder / 'mmlora.json').read_text())['base']['sha256'] == tuned.base_sha256
    assert run_test(cfg, str(folder), record=False) == metrics
    peft = pytest.importorskip('peft')
    other = peft.PeftModel.from_pretrained(
        transformers.Florence2ForConditionalGeneration.from_pretrained(weights), folder).eval()
    given = tuned._prompts(images(), samples())
    own, there, untuned = (net(**given, labels=tuned._labels(samples())).logits for net in (
        tuned.backbone, other, transformers.Florence2ForConditionalGeneration.from_pretrained(weights).eval()))
    torch.testing.assert_close(own, there, rtol=1e-4, atol=1e-5)
    assert (own - untuned).abs().max() > 1e-2

    check_generation(cfg, checkpoint, banks, tuned, tmp_path)
    cfg.model.pretrained = str(florence_tiny.write_florence(tmp_path / 'other', seed=1))
    with pytest.raises(ValueError, match=f'trained over weights with the sha256 {tuned.base_sha256}'):
        load_detector(cfg, checkpoint)


def test_the_tool(cfg, tmp_path, model, capsys, quick):  # noqa: F811
    out, checkpoint = tmp_path / 'cats.jsonl', tmp_path / 'tuned.pth'
    cfg.model.lora_rank = 2
    cfg.dump(tmp_path / 'cfg.py')
    torch.save(dict(state_dict=wake(model).state_dict()), checkpoint)
    source = tmp_path / 'voc' / 'train' / 'annotations.jsonl'
    assert tiny.call_tool('florence', 'filter', source, out, '--classes', 'cat') == 0
    assert json.loads(out.read_text()) == dict(LINES[4], prefix='<OD>')
    vector = tmp_path / 'c.safetensors'
    command = ['task-vector', tmp_path / 'cfg.py', checkpoint]
    assert tiny.call_tool('florence', *command, vector, '--num-images', 2) == 0
    assert '16 numbers' in capsys.readouterr().out
    again = [*command, vector, '--num-images', 2, '--task', 'other']
    assert tiny.call_tool('florence', *again) == 0
    found = TaskVectors.open(vector)
    assert {name: tuple(value.shape) for name, value in found.vectors.items()} == dict(dog=(1, 16), other=(1, 16))
    assert torch.equal(found.vectors['dog'], found.vectors['other'])
    assert found.record['base_sha256'] == model.base_sha256
    assert tiny.call_tool('florence', *again, '--num-images', 1) == 2
    assert 'would have' in capsys.readouterr().err
    assert tiny.call_tool('florence', *command, 'c.pth') == 2
    assert re.search(r"error: 'c.pth' must end in .safetensors", capsys.readouterr().err)
