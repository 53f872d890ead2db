"""Several adapters on one model: switching compiles nothing anew, and a compiled model computes the same."""

import copy

import pytest
import torch
import torch.nn as nn
from merge_cases import lora, net, whole
from torch._dynamo.testing import CompileCounter

import mmlora
from mmlora.adapters import (
    LoRABank,
    adapt_with,
    adapter_modules,
    add_adapter,
    attach_bank,
    merge_adapters,
    merged_state_dict,
    route,
    to_plain,
    unmerge_adapters,
)
from mmlora.adapters.head_bank import HeadBank
from mmlora.adapters.route import Route
from mmlora.io.lora_folder import Head, read_lora_folder, write_lora_folder

CLASSES = dict(cats=3, dogs=3, mice=3, owls=5)
RANKS = dict(cats=(2, 2, 2, 2), dogs=(1, 4, 3, 2), mice=(3, 1, 1, 5), owls=(2, 2, 2, 2))


class Classifier(nn.Module):
    """A backbone with a head, both found by their names."""

    def __init__(self):
        super().__init__()
        self.backbone, self.head = net(), nn.Module()
        self.head.fc = nn.Linear(5, 2)

    def forward(self, x):
        return self.head.fc(self.backbone(x))


@pytest.fixture(scope='module')
def zoo(tmp_path_factory):
    """A classifier with four adapters, and the folders of these."""
    torch.manual_seed(0)
    folder, model = tmp_path_factory.mktemp('zoo'), Classifier().eval()
    for seed, (name, classes) in enumerate(CLASSES.items()):
        write_lora_folder(folder / name, lora(seed, RANKS[name], dtype=torch.float32), {},
                          Head(torch.randn(classes, 5), torch.randn(classes)))
        mmlora.load_adapter(model, folder / name, name)
    return model, folder


@pytest.fixture
def compiled(zoo):
    torch._dynamo.reset()
    model, counter = copy.deepcopy(zoo[0]), CompileCounter()
    yield model, torch.compile(model, backend=counter), counter
    torch._dynamo.reset()


@torch.no_grad()
def test_a_switch_compiles_nothing_anew(compiled, zoo):
    model, fast, counter = compiled
    x = torch.randn(4, 6)

    def use(name):
        mmlora.set_adapter(model, name)
        found = fast(x)
        torch.testing.assert_close(found, model(x), atol=1e-5, rtol=1e-5)
        return found

    outputs = [use(name) for name in ('cats', 'dogs', 'mice', 'cats')]
    assert counter.frame_count == 1 and torch.equal(outputs[0], outputs[3])
    assert min((one - other).abs().max() for one, other in zip(outputs, outputs[1:], strict=False)) > 0.01
    use('owls')  # Of other classes: the output has another shape.
    use(None)
    count = counter.frame_count
    assert count == 3
    for name in ('cats', None, 'owls', 'dogs', None):
        use(name)
    with mmlora.disable_adapter(model):
        torch.testing.assert_close(fast(x), model(x), atol=1e-5, rtol=1e-5)
    assert counter.frame_count == count
    for names in (['cats', 'dogs', None, 'owls'], ['dogs', 'dogs', 'mice', 'mice'], ['mice'] * 4, [None] * 4,
                  [None, 'owls', 'owls', None]):
        use(names)
        assert counter.frame_count == count + 1, names
    mmlora.load_adapter(model, zoo[1] / 'dogs', 'cats')  # A hot swap: it has room in the tensors that are there.
    mmlora.set_adapter(model, 'cats')
    use('cats')
    use('dogs')
    assert counter.frame_count == count + 1
    with pytest.raises(ValueError, match='the route is for 3 samples'):
        mmlora.set_adapter(model, ['cats', 'dogs', 'mice'])
        fast(x)


@pytest.mark.parametrize('indices', [[0, 1, 2], [2, 0, 2], [-1, 1, 0], 1])
def test_gradients_of_a_compiled_model_are_the_same(indices):
    torch._dynamo.reset()
    plain, grads = net(dtype=torch.float64), []
    attach_bank(plain, [lora(seed, RANKS[name]) for seed, name in enumerate(list(RANKS)[:3])])
    x = torch.randn(3, 7, 6, dtype=torch.float64)
    for run in (plain, torch.compile(plain, backend='eager')):
        plain.zero_grad()
        with route(plain, indices):
            run(x).square().sum().backward()
        grads.append({name: p.grad.clone() for name, p in plain.named_parameters() if p.grad is not None})
    torch._dynamo.reset()
    assert set(grads[0]) == set(grads[1]) and any('lora_A' in name and grad.any() for name, grad in grads[0].items())
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, atol=1e-10, rtol=0)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float64])
@torch.no_grad()
def test_a_model_with_adapters_changes_its_type(zoo, dtype, tmp_path):
    model, x = copy.deepcopy(zoo[0]), torch.randn(4, 6)
    half = copy.deepcopy(model).to(dtype)
    for use in ('cats', None, ['cats', 'dogs', 'mice', 'cats'], ['owls', None, 'owls', None]):
        mmlora.set_adapter(model, use)
        mmlora.set_adapter(half, use)
        found, wanted = half(x.to(dtype)), model(x)
        assert found.dtype == dtype
        torch.testing.assert_close(found.float(), wanted, atol=0.1, rtol=0.1)
    mmlora.combine_adapters(half, ['cats', 'dogs'], 'both')
    mmlora.set_adapter(half, 'both')
    assert half(x.to(dtype)).isfinite().all()
    mmlora.save_adapter(half, tmp_path, 'cats')
    for key, pair in read_lora_folder(tmp_path).weights.items():
        assert pair.a.dtype == dtype and pair.scaling == lora(0)[key].scaling


def test_slices_beside_a_whole_projection(zoo, tmp_path):
    x, one, plain = torch.randn(3, 6), lora(7, (1, 2, 2, 2), dtype=torch.float32), net()
    write_lora_folder(tmp_path / 'slices', one, {})
    write_lora_folder(tmp_path / 'whole', whole(lora(8, (2, 1, 2, 2), dtype=torch.float32)), {})
    alone = {name: mmlora.load_adapter(net(), tmp_path / name)(x) for name in ('slices', 'whole')}
    for order in (('slices', 'whole'), ('whole', 'slices')):
        model = net()
        for name in order:
            mmlora.load_adapter(model, tmp_path / name, name)
        for name in order:
            mmlora.set_adapter(model, name)
            torch.testing.assert_close(model(x), alone[name], atol=1e-5, rtol=1e-5)
        mmlora.set_adapter(model, ['whole', None, 'slices'])
        expected = torch.stack([alone['whole'][0], plain(x)[1], alone['slices'][2]])
        torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)
        mmlora.save_adapter(model, tmp_path / 'again', 'slices')
        again = mmlora.load_adapter(net(), tmp_path / 'again')
        torch.testing.assert_close(again(x), alone['slices'], atol=1e-5, rtol=1e-5)


def test_an_adapter_may_go_while_adapters_are_disabled(zoo):
    model, x = copy.deepcopy(zoo[0]), torch.randn(2, 6)
    mmlora.set_adapter(model, 'cats')
    with mmlora.disable_adapter(model):
        plain = model(x)
        mmlora.delete_adapter(model, 'cats')
    assert torch.equal(model(x), plain)
    mmlora.set_adapter(model, 'dogs')
    with pytest.raises(ZeroDivisionError), mmlora.disable_adapter(model):
        raise ZeroDivisionError
    assert [info.name for info in mmlora.list_adapters(model) if info.active] == ['dogs']
    with pytest.raises(ValueError, match=r'got the shape \(0,\)'):
        mmlora.set_adapter(model, [])


def test_the_adapter_in_use_is_merged(zoo):
    model, x = copy.deepcopy(zoo[0]), torch.randn(4, 6)
    state = copy.deepcopy(model.state_dict())
    mmlora.set_adapter(model, 'dogs')
    wanted, plain = model(x), copy.deepcopy(model)
    assert merge_adapters(model) == 3
    torch.testing.assert_close(model(x), wanted, atol=1e-5, rtol=1e-5)
    for refused in (lambda: mmlora.set_adapter(model, 'cats'), lambda: mmlora.set_adapter(model, ['dogs'] * 4),
                    lambda: mmlora.delete_adapter(model, 'cats'),
                    lambda: mmlora.load_adapter(model, zoo[1] / 'cats', 'new'),
                    lambda: mmlora.combine_adapters(model, ['cats'], 'new'), lambda: route(model, 0).__enter__(),
                    lambda: mmlora.disable_adapter(model).__enter__()):
        with pytest.raises(ValueError, match=r'qkv is merged, .*call unmerge_adapters\(model\) first'):
            refused()
    torch.testing.assert_close(model(x), wanted, atol=1e-5, rtol=1e-5)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    unmerge_adapters(model)
    assert torch.equal(model(x), wanted)
    mmlora.set_adapter(model, ['dogs', 'cats', None, 'dogs'])
    with pytest.raises(ValueError, match='attn.qkv: the samples of a batch use several adapters'):
        merge_adapters(model)
    assert not any(layer.merged for layer in adapter_modules(model).values())

    bare = Classifier()
    bare.head.fc = nn.Linear(5, 3)
    bare.load_state_dict(merged_state_dict(plain))
    torch.testing.assert_close(bare(x), wanted, atol=1e-5, rtol=1e-5)
    assert to_plain(plain) == 3 and set(plain.state_dict()) == set(bare.state_dict())
    torch.testing.assert_close(plain(x), wanted, atol=1e-5, rtol=1e-5)
    assert mmlora.list_adapters(plain) == [] and type(plain.head.fc) is nn.Linear
    mmlora.set_adapter(model, None)
    assert merge_adapters(model) == 3
    torch.testing.assert_close(model(x), Classifier.forward(copy.deepcopy(model), x))
    to_plain(model)
    assert model(x).shape == (4, 2)


def test_a_merge_that_fails_leaves_no_layer_merged():
    model = net()
    adapt_with(model, lora(0, dtype=torch.float32))
    with torch.no_grad():
        model.mlp.lora_B[0, 0] = torch.nan
    with pytest.raises(ValueError, match='mlp: the change holds values that are not finite'):
        merge_adapters(model)
    assert not any(layer.merged for layer in adapter_modules(model).values())


def test_what_cannot_be_combined(zoo):
    model = copy.deepcopy(zoo[0])
    for names, name, more, error, message in (
        (['cats', 'dog'], 'new', {}, ValueError, "no adapter 'dog'"),
        ('cats', 'new', {}, TypeError, 'give a list of the names'),
        ([], 'new', {}, ValueError, 'there is no adapter to merge'),
        (['cats'], '', {}, ValueError, "an adapter has a name, got ''"),
        (['cats', 'dogs'], 'new', dict(method='tie'), ValueError, r"did you mean one of \['ties'"),
        (['cats', 'dogs'], 'new', dict(weights=[1]), ValueError, '2 adapters need 2 finite weights'),
        (['cats', 'dogs'], 'new', dict(method='ties', density=2), ValueError, r'density must lie in \(0, 1\]'),
    ):
        with pytest.raises(error, match=message):
            mmlora.combine_adapters(model, names, name, **more)
    assert [info.name for info in mmlora.list_adapters(model)] == list(CLASSES)


def test_heads_of_combined_adapters(zoo):
    model, x = copy.deepcopy(zoo[0]), torch.randn(2, 6)
    mmlora.set_adapter(model, 'cats')
    cats = model(x)
    mmlora.combine_adapters(model, ['cats'], 'copy', weights=[1.0])
    mmlora.combine_adapters(model, ['cats', 'dogs'], 'both', 'sum')
    mmlora.set_adapter(model, 'copy')
    torch.testing.assert_close(model(x), cats, atol=1e-6, rtol=1e-6)  # One with weight 1 is itself, its head too.
    mmlora.set_adapter(model, 'both')
    assert model(x).shape == (2, 2)  # The heads differ: that of the model.
    mmlora.combine_adapters(model, ['both', 'dogs'], 'both', 'sum')
    assert [info.name for info in mmlora.list_adapters(model)] == [*CLASSES, 'copy', 'both']


def test_adapters_that_the_backbone_was_given_alone(zoo):
    _, folder = zoo
    model = Classifier().eval()
    for number, name in enumerate(('low', 'more')):
        add_adapter(model.backbone, name, lora(number, RANKS['dogs'], dtype=torch.float32))
    mmlora.combine_adapters(model, ['low', 'more'], 'both')
    mmlora.load_adapter(model, folder / 'owls', 'owls')
    infos = mmlora.list_adapters(model)
    assert [(one.name, one.folder, one.rank, one.active) for one in infos] == [
        ('low', None, 4, True), ('more', None, 4, False), ('both', None, 4, False), ('owls', folder / 'owls', 2, False)]
    x = torch.randn(2, 6)
    assert model(x).shape == (2, 2)  # No head but that of the model.
    mmlora.set_adapter(model, 'owls')
    assert model(x).shape == (2, 5)
    mmlora.delete_adapter(model, 'more')
    assert [one.name for one in mmlora.list_adapters(model)] == ['low', 'both', 'owls'] and model(x).shape == (2, 5)


def test_a_head_for_each_sample():
    heads = HeadBank(nn.Linear(4, 2), [(torch.randn(3, 4), torch.randn(3)), None])
    x = torch.randn(3, 4)
    heads.use = [0, -1, 1]
    found = heads(x)
    assert found.shape == (3, 3) and found[1:, 2].isneginf().all()
    torch.testing.assert_close(found[1:, :2], heads.own(x)[1:])
    heads.use = 0
    torch.testing.assert_close(heads(x)[0], found[0])
    twin = copy.deepcopy(heads)
    twin.use = -1
    assert heads.use == 0 and twin(x).shape == (3, 2)


@torch.no_grad()
def test_windows_of_a_compiled_layer():
    torch._dynamo.reset()
    bank = LoRABank.from_linear(nn.Linear(6, 24), 3, dict(q=2, v=1), slices='qv')
    bank.windows = True
    for part in 'qv':
        bank.tensors(part)[1].normal_()
    x, counter = torch.randn(6, 4, 6), CompileCounter()  # Three windows of each of two images.
    fast, found = torch.compile(bank, backend=counter), []
    for indices in ([0, 2], [1, -1], [2, 2]):
        bank.route = Route(indices, 3)
        found.append(fast(x))
        torch.testing.assert_close(found[-1], bank(x), atol=1e-6, rtol=1e-5)
    assert counter.frame_count == 1 and (found[0] - found[1]).abs().max() > 0.01
    torch._dynamo.reset()
