"""Ways to adapt CLIP beside LoRA: against plain formulas and zero-shot CLIP, what learns, and what is refused."""

import copy

import pytest
import torch
import torch.nn.functional as F
from clip_tiny import ARCH, CLASSES, SMALL, WORDS, images
from mmpretrain.structures import DataSample

from mmlora.adapters import adapter_tensor_names
from mmlora.models import LoRACLIPClassifier
from mmlora.models.backbones.skeleton import Skeleton
from mmlora.models.clip import CLIPAdapter, CoOpCLIP, LayerNormCLIP, TwoStageCLIP, restore_openai_keys
from mmlora.models.clip.methods.context import insert_context, lay_out
from mmlora.models.clip.methods.known_classes import KnownClasses
from mmlora.models.clip.methods.two_stage import mix_rows
from mmlora.registry import MODELS

CLIP = {key: value for key, value in SMALL.items() if key != 'lora_dropout'}
TOKENIZER, NAMES = CLIP['tokenizer'], [name.replace('_', ' ') for name in CLASSES]
EXACT = dict(rtol=0, atol=1e-10)
KINDS = {
    'coop': (CoOpCLIP, dict(n_ctx=4)),
    'coop, for each class': (CoOpCLIP, dict(n_ctx=3, class_specific=True, position='middle')),
    'clip-adapter': (CLIPAdapter, dict(ratio=0.3)),
    'clip-adapter, both': (CLIPAdapter, dict(ratio=0.3, text_ratio=0.4)),
    'layer norm': (LayerNormCLIP, {}),
    'layer norm, text': (LayerNormCLIP, dict(encoder='text')),
    '2sfs': (TwoStageCLIP, {}),
    '2sfs, lora': (TwoStageCLIP, dict(tune='lora', lora_rank=2, lora_dropout=0.0)),
}
LEARNED = {
    'coop': {'text.context.vectors'},
    'coop, for each class': {'text.context.vectors'},
    'clip-adapter': {'image_adapter.down', 'image_adapter.up'},
    'clip-adapter, both': {'image_adapter.down', 'image_adapter.up', 'text_adapter.down', 'text_adapter.up'},
}
FRESH = {'head.rows.weight'}
kinds = pytest.mark.parametrize('kind', KINDS)


def build(kind, seed=0, **kwargs):
    model_class, arguments = KINDS[kind]
    torch.manual_seed(seed)
    model = model_class(**{**CLIP, **arguments, **kwargs})
    model.init_weights()
    return model.double()


@pytest.fixture
def plain():
    """Zero-shot CLIP."""
    torch.manual_seed(5)
    model = LoRACLIPClassifier(**{**CLIP, 'encoder': 'none'})
    for name, parameter in model.named_parameters():  # Normalisations that do something.
        if parameter.ndim == 1 and 'ln' in name:
            torch.nn.init.normal_(parameter, 1.0 if name.endswith('weight') else 0.0, 0.1)
    return model.double()


def with_weights(kind, plain, **kwargs):
    model = build(kind, **kwargs)
    report = model.load_state_dict(plain.state_dict(), strict=False)
    assert not report.unexpected_keys
    assert all(key.startswith(('head.', 'text.context', 'image_adapter', 'text_adapter')) or 'lora_' in key
               for key in report.missing_keys)
    return model


def learned(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def loss(model, inputs, labels=(0, 1, 2)):
    samples = [DataSample().set_gt_label(label) for label in labels]
    return model(inputs, samples, mode='loss')['loss']


class TestCoOp:
    @pytest.mark.parametrize('position, template', [
        ('end', 'a photo of the {}.'), ('middle', 'a photo {} of the.'), ('front', '{} a photo of the.'),
    ])
    def test_words_as_context_are_the_template(self, plain, position, template):
        model = with_weights('coop', plain, ctx_init='a photo of the', position=position)
        plain.set_classes(CLASSES, template)
        torch.testing.assert_close(model(images()), plain(images()), **EXACT)
        with torch.no_grad():
            model.text.context.vectors[2, 0] += 0.1
        assert (model(images()) - plain(images())).abs().max() > 1e-3

    def test_each_class_has_its_own(self, plain):
        model = with_weights('coop', plain, ctx_init='a photo of the', class_specific=True)
        templates = ['a photo of the {}.', 'the big red photo {}.', 'a a a a {}.', 'painting of the blue {}.']
        wanted = []
        for row, template in enumerate(templates):
            tokens = torch.tensor(model._tokens_of(template.replace('{}.', '')))
            with torch.no_grad():
                model.text.context.vectors[row] = model.text.token_embedding(tokens)
            plain.set_classes([CLASSES[row]], template)
            wanted.append(plain(images()))
        torch.testing.assert_close(model(images()), torch.cat(wanted, dim=1), **EXACT)

    @pytest.mark.parametrize('options', [dict(text_chunk=1), dict(text_chunk=3, text_checkpointing=True)])
    @pytest.mark.parametrize('kind', ['coop', 'coop, for each class'])
    def test_chunks_change_nothing(self, kind, options):
        whole, parts = build(kind), build(kind, **options)
        parts.load_state_dict(whole.state_dict())
        for model in (whole, parts):
            loss(model, images()).backward()
        torch.testing.assert_close(parts(images()), whole(images()), **EXACT)
        one, other = (model.text.context.vectors.grad for model in (whole, parts))
        assert one.any()
        torch.testing.assert_close(other, one, **EXACT)

    def test_gradients(self):
        model = build('coop')
        vectors = model.text.context.vectors.detach().clone().requires_grad_()

        def logits(vectors):
            return torch.func.functional_call(model, {'text.context.vectors': vectors}, (images(1),))

        assert torch.autograd.gradcheck(logits, (vectors,), eps=1e-6, atol=1e-6)

    def test_no_longer_prompt_changes_another(self, plain):
        model = with_weights('coop', plain)
        alone = model(images())[:, :2]
        model.set_classes([*CLASSES[:2], 'the big red green blue dog'])
        torch.testing.assert_close(model(images())[:, :2], alone, **EXACT)

    def test_features_follow_the_vectors_in_evaluation(self):
        model = build('coop').eval()
        with torch.no_grad():
            first = model(images())
            assert model.class_features() is model.class_features()
            model.text.context.vectors.data[0, 0].add_(0.5)
            assert (model(images()) - first).abs().max() > 1e-3

    def test_new_classes(self, plain):
        model = with_weights('coop', plain)
        model.set_classes(['cat', 'painting'])
        assert model(images()).shape == (3, 2) and model.classes == ('cat', 'painting')
        own = build('coop, for each class')
        own.set_classes(NAMES)  # The same in another spelling.
        for names in (CLASSES[::-1], CLASSES[:3]):
            with pytest.raises(ValueError, match='has a context for each of the 4 classes that are trained'):
                own.set_classes(names)
        fresh = CoOpCLIP(n_ctx=3, class_specific=True, position='middle', arch=ARCH, tokenizer=TOKENIZER, num_classes=4)
        fresh.set_classes(['a', 'photo', 'of', 'the'])
        fresh.load_state_dict(build('coop, for each class').float().state_dict())
        with pytest.raises(ValueError, match='are others or in another order'):
            fresh(images().float())

    def test_layout(self):
        assert lay_out([7, 8], [9], 3, 1) == [-1, 7, 8, -2, -3, 9]
        embedded, vectors = torch.rand(2, 3, 4), torch.rand(2, 5, 4)
        slots = torch.tensor([[-1, 4, 0], [2, -1, -1]])
        wanted = torch.stack([torch.stack([embedded[0, 0], vectors[0, 4], vectors[0, 0]]),
                              torch.stack([vectors[1, 2], embedded[1, 1], embedded[1, 2]])])
        assert torch.equal(insert_context(embedded, vectors, slots), wanted)
        assert torch.equal(insert_context(embedded[:1], vectors[0], slots[:1]), wanted[:1])

    def test_the_first_vectors(self):
        vectors = CoOpCLIP(n_ctx=4, **{**CLIP, 'arch': {**ARCH, 'text_width': 512}}).text.context.vectors
        assert vectors.std().item() == pytest.approx(0.02, rel=0.1) and abs(vectors.mean().item()) < 2e-3

    @pytest.mark.parametrize('options, error, message', [
        (dict(n_ctx=10), ValueError, r"prompt of 'red_dog' has 15 tokens, 10 of them learned .* context 14"),
        (dict(n_ctx=0), ValueError, 'n_ctx must be a whole number of at least 1'),
        (dict(position='back'), ValueError, r"unknown position 'back': choose one of \['end', 'middle', 'front'\]"),
        (dict(templates='a {}'), TypeError, 'leave out templates'),
        (dict(lora_rank=2), TypeError, 'adds no LoRA, got lora_rank=2'),
        (dict(encoder='both'), TypeError, "got encoder='both'"),
        (dict(ctx_init='a zebra'), ValueError, "'zebra' of 'a zebra' is not among"),
        (dict(ctx_init=' '), ValueError, 'has no words'),
        (dict(class_specific=True, classes=None), ValueError, 'needs the number of classes'),
        (dict(class_specific=True, num_classes=3), ValueError, r'context for each of the 3 classes .* \(4 in all'),
        (dict(num_classes=0), ValueError, 'num_classes must be a whole number of at least 1'),
        (dict(tokenizer=dict(type='WordTokenizer', vocabulary=[w for w in WORDS if w != '.'])), ValueError,
         r"'\.' of 'red dog\.' is not among"),
    ])
    def test_refused(self, options, error, message):
        with pytest.raises(error, match=message):
            CoOpCLIP(**{**CLIP, 'n_ctx': 2, **options})

    def test_a_tokenizer_without_a_full_stop(self):
        tokenizer = dict(type='WordTokenizer', vocabulary=[w for w in WORDS if w != '.'])
        model = CoOpCLIP(**{**CLIP, 'tokenizer': tokenizer}, n_ctx=2, ending='')
        assert model._lengths == [6, 5, 8, 6]
        with pytest.raises(TypeError, match='cannot take its place'):
            model.set_classes(['cat'], 'a {}')


class TestCLIPAdapter:
    @pytest.mark.parametrize('ratio, text_ratio', [(0.2, None), (0.6, 0.3), (None, 0.5), (1.0, None)])
    def test_formula(self, plain, ratio, text_ratio):
        model = with_weights('clip-adapter', plain, ratio=ratio, text_ratio=text_ratio)
        features, texts = plain.encode_image(images()), plain.class_features()
        if ratio is not None:
            down, up = model.image_adapter.down, model.image_adapter.up
            features = ratio * ((features @ down.T).clamp(min=0) @ up.T).clamp(min=0) + (1 - ratio) * features
        if text_ratio is not None:
            down, up = model.text_adapter.down, model.text_adapter.up
            texts = text_ratio * ((texts @ down.T).clamp(min=0) @ up.T).clamp(min=0) + (1 - text_ratio) * texts
        wanted = 100 * torch.stack([torch.stack([F.cosine_similarity(f, t, dim=0) for t in texts]) for f in features])
        torch.testing.assert_close(model(images()), wanted, **EXACT)
        assert (wanted - plain(images())).abs().max() > 1e-3

    def test_no_ratio_is_zero_shot(self, plain):
        model = with_weights('clip-adapter', plain, ratio=0, text_ratio=0)
        torch.testing.assert_close(model(images()), plain(images()), **EXACT)

    @pytest.mark.parametrize('options, error, message', [
        (dict(ratio=1.2), ValueError, r'ratio must lie in \[0, 1\] or be None, got 1.2'),
        (dict(text_ratio='0.2'), ValueError, 'text_ratio must lie'),
        (dict(ratio=None), ValueError, 'nothing would learn'),
        (dict(reduction=13), ValueError, r'whole number in 1\.\.12'),
        (dict(params='qv'), TypeError, 'adds no LoRA'),
    ])
    def test_refused(self, options, error, message):
        with pytest.raises(error, match=message):
            CLIPAdapter(**CLIP, **options)


class TestTwoStage:
    def test_the_stages(self, plain):
        model = with_weights('2sfs', plain)
        torch.testing.assert_close(model(images()), plain(images()), **EXACT)
        assert model.stage == 1 and learned(model) == learned(build('layer norm')) | FRESH
        loss(model, images()).backward()
        assert model.head.rows.weight.grad is None
        model.train().begin_second_stage()
        assert model.stage == 2 and learned(model) == FRESH
        assert all(parameter.grad is None for parameter in model.parameters())
        assert model.training and not model.visual.training and not model.text.training
        torch.testing.assert_close(model(images()), plain(images()), **EXACT)
        with torch.no_grad():
            model.head.rows.weight.mul_(3.0)[1] += 0.7
        rows = F.normalize(model.head.rows.weight, dim=-1)
        wanted = 100 * F.normalize(plain.encode_image(images()), dim=-1) @ rows.T
        torch.testing.assert_close(model(images()), wanted, **EXACT)
        with pytest.raises(ValueError, match='has begun already'):
            model.begin_second_stage()

    def test_classes_in_another_order_and_new_ones(self, plain):
        model = with_weights('2sfs', plain)
        model.begin_second_stage()
        with torch.no_grad():
            model.head.rows.weight.add_(torch.randn(4, 12, generator=torch.Generator().manual_seed(0)).double())
        rows = F.normalize(model.head.rows.weight, dim=-1)
        model.set_classes(['cat', 'painting', 'red dog'])
        plain.set_classes(['painting'])
        wanted = torch.stack([rows[1], plain.class_features()[0], rows[0]])
        torch.testing.assert_close(model.class_features(), wanted, **EXACT)
        other = build('2sfs', classes=['painting', 'a', 'the', 'cat'])
        other.load_state_dict(model.state_dict())
        assert other.stage == 2
        torch.testing.assert_close(other.class_features()[3], rows[1], **EXACT)
        torch.testing.assert_close(other.class_features()[0], wanted[1], **EXACT)

    def test_names_that_two_classes_share(self):
        known = KnownClasses(3)
        assert known.empty
        known.learn(['missile', 'cat', 'missile'])
        assert known.rows_of(['missile', 'cat', 'missile']) == [0, 1, 2] and not known.empty
        assert known.rows_of(['cat', 'missile', 'dog', 'Cat']) == [1, 0, -1, -1]
        rows, texts = torch.tensor([[1.0], [2.0]]), torch.tensor([[5.0], [6.0], [7.0]])
        assert mix_rows(rows, texts, [1, -1, 0]).flatten().tolist() == [2, 6, 1]

    @pytest.mark.parametrize('options, error, message', [
        (dict(tune='all'), ValueError, r"unknown tune='all': choose one of \['layer_norm', 'bitfit', 'lora'\]"),
        (dict(lora_rank=2), TypeError, "leave it out, or set tune='lora'"),
        (dict(encoder='none'), ValueError, 'would let nothing learn'),
        (dict(encoder='all'), ValueError, "unknown encoder 'all'"),
        (dict(num_classes=True), ValueError, 'num_classes must be'),
    ])
    def test_refused(self, options, error, message):
        with pytest.raises(error, match=message):
            TwoStageCLIP(**CLIP, **options)

    def test_no_rows_no_second_stage(self):
        model = TwoStageCLIP(arch=ARCH, tokenizer=TOKENIZER)
        model.set_classes(CLASSES)
        assert model(images().float()).shape == (3, 4)
        for begin in (model.begin_first_stage, model.begin_second_stage):
            with pytest.raises(ValueError, match='rows for 0 classes, and there are 4 names: build it with num_'):
                begin()


@kinds
def test_what_learns_changes_and_the_rest_does_not(kind):
    model = build(kind)
    wanted = LEARNED.get(kind)
    if wanted is None:
        towers = ('text.',) if 'text' in kind else ('text.', 'visual.')
        part = 'lora_' if 'lora' in kind else None
        wanted = {name for name, module in model.named_modules() if isinstance(module, torch.nn.LayerNorm)}
        wanted = {f'{name}.{end}' for name in wanted for end in ('weight', 'bias')}
        wanted = {name for name, _ in model.named_parameters() if name.startswith(towers)
                  and (part in name if part else name in wanted)} | (FRESH if '2sfs' in kind else set())
    assert learned(model) == wanted and wanted
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    before, losses = copy.deepcopy(model.state_dict()), []
    for _ in range(8):
        losses.append(loss(model.train(), images()))
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == wanted - FRESH and losses[-1] < losses[0]


@pytest.mark.parametrize('kind', ['coop', 'coop, for each class', 'clip-adapter', 'clip-adapter, both'])
def test_features_stand_for_images(kind):
    model = build(kind).eval()
    features = model.encode_image(images()).detach()
    torch.testing.assert_close(model(features), model(images()), **EXACT)
    one, other = copy.deepcopy(model), copy.deepcopy(model)
    loss(one, images()).backward()
    loss(other, features).backward()
    for name in learned(model):
        torch.testing.assert_close(other.get_parameter(name).grad, one.get_parameter(name).grad, **EXACT)


@kinds
def test_weights_of_openai_by_init_cfg(tmp_path, plain, kind):
    torch.save(restore_openai_keys(plain.float().state_dict()), tmp_path / 'openai.pt')
    plain.double()
    own = dict(ctx_init='a photo of a') if 'coop' in kind else dict(ratio=0.0) if 'adapter' in kind else {}
    own |= dict(position='end') if 'coop' in kind else dict(text_ratio=0.0) if kind == 'clip-adapter, both' else {}
    model = build(kind, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'openai.pt')), **own)
    torch.testing.assert_close(model(images()), plain(images()), rtol=0, atol=1e-5)
    again = build(kind, seed=1, **own)
    assert (again(images()) - model(images())).abs().max() > 1e-2
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again(images()), model(images()), rtol=0, atol=0)


@kinds
def test_a_checkpoint_that_lacks_something_is_refused(kind):
    model = build(kind)
    for name in ('text.ln_final.weight', 'visual_proj.proj', 'logit_scale'):
        state = model.state_dict()
        del state[name]
        with pytest.raises(ValueError, match='lacks|has no'):
            model.load_state_dict(state, strict=False)


def test_layer_norm_checkpoints_are_those_of_a_plain_clip(plain):
    model = build('layer norm')
    with torch.no_grad():
        model.visual.pre_norm.weight.add_(0.3)
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(plain(images()), model(images()), **EXACT)
    assert adapter_tensor_names(model) == set()


@pytest.mark.parametrize('name, options, numbers', [
    ('CoOp', dict(n_ctx=16), 16 * 512),
    ('CoOp', dict(ctx_init='a photo of a'), 4 * 512),
    ('CoOpCLIP', dict(class_specific=True, num_classes=10), 10 * 16 * 512),
    ('CLIP-Adapter', {}, 2 * 512 * 128),
    ('CLIPAdapter', dict(text_ratio=0.2, reduction=8), 2 * 2 * 512 * 64),
    ('LayerNormCLIP', {}, 2 * 768 * (2 * 12 + 2) + 2 * 512 * (2 * 12 + 1)),
    ('LayerNormCLIP', dict(encoder='vision', arch='ViT-L/14'), 2 * 1024 * (2 * 24 + 2)),
    ('2SFS', dict(num_classes=47), 65_536 + 47 * 512),
    ('TwoStageCLIP', dict(num_classes=47, tune='lora'), 184_320 + 47 * 512),
    # Vision: three projections of D for qkv, then D, 4 D, D and two normalisations; text alike.
    ('TwoStageCLIP', dict(num_classes=47, tune='bitfit'), (12 * 11 + 2) * 768 + (12 * 11 + 1) * 512 + 47 * 512),
])
def test_how_many_numbers_learn(name, options, numbers):
    words = dict(type='WordTokenizer', vocabulary=WORDS)
    with Skeleton():
        model = MODELS.build(dict(type=name, arch='ViT-B/16', tokenizer=words) | options)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == numbers


@pytest.mark.parametrize('options', [dict(logit_scale='learned')])
@pytest.mark.parametrize('kind', ['coop', 'clip-adapter', 'layer norm', '2sfs'])
def test_a_learned_scale(kind, options):
    assert learned(build(kind, **options)) - learned(build(kind)) == {'logit_scale'}


@kinds
def test_nothing_is_merged(kind):
    with pytest.raises(ValueError, match='merge'):
        KINDS[kind][0].plain_config({})
