"""Merging of LoRAs that peft has trained: the cases of its open reports, and what both compute alike."""

import functools
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from merge_cases import Case, close, net

import mmlora
from mmlora.apis import merge_adapter_folders

FAULTY = ('0.21.2',)
"""Versions of peft that were seen to merge wrongly."""

LAYERS = ['attn.qkv', 'attn.proj', 'mlp']
FACTORWISE = ('linear', 'ties', 'dare_linear', 'dare_ties', 'magnitude_prune')
TYPES = (*FACTORWISE, 'cat', 'svd', *(f'{name}_svd' for name in FACTORWISE[1:]))
OTHERS = {'lora_bias': dict(lora_bias=True), 'DoRA': dict(use_dora=True), 'KaSA': dict(kasa_config=True)}
OURS = {'lora_bias': 'a bias on B'}
"""What an error calls it where it has another name."""

PATTERN = dict(rank_pattern={'mlp': 2, 'attn.proj': 3}, alpha_pattern={'mlp': 3})


def quiet(check):
    @functools.wraps(check)
    def run(*args):
        with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder, torch.no_grad():
            warnings.simplefilter('ignore')
            logging.getLogger('peft').setLevel(logging.ERROR)
            check(pytest.importorskip('peft'), Path(folder), *args)
    return run


def trained(peft, folder, count=1, **more):
    """Return a model of peft with adapters a0, a1 ... that are all in folders."""
    kasa = {'kasa_config': peft.tuners.lora.config.KasaConfig()} if more.pop('kasa_config', False) else {}
    configs = [peft.LoraConfig(r=4, lora_alpha=8, target_modules=LAYERS, **more, **kasa) for _ in range(count)]
    model = peft.get_peft_model(net(), configs[0], adapter_name='a0')
    for number, config in enumerate(configs[1:], 1):
        model.add_adapter(f'a{number}', config)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if 'lora_' in name:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 3)
    model.save_pretrained(str(folder))
    return model.eval()


def inputs():
    return torch.randn(4, 6, generator=torch.Generator().manual_seed(3))


def check_loads(peft, out, wanted):
    """Check that peft and this package load a folder and compute the same."""
    x = inputs()
    close(mmlora.load_adapter(net(), out)(x), wanted, 1e-5)
    close(peft.PeftModel.from_pretrained(net(), str(out)).eval()(x), wanted, 1e-5)


def reports() -> Iterator[Case]:
    for kind in TYPES:
        yield Case('peft #3761: one adapter of rsLoRA, saved, loaded here and in peft', kind,
                   lambda k=kind: check_rslora(k))
    for name, more in OTHERS.items():
        yield Case('peft #3761: what is more than B A is refused', name, lambda n=name, m=more: check_refused(n, m))
    for kind in TYPES:
        for count in (1, 2):
            yield Case('peft #3737: ranks of single layers, saved, loaded here and in peft',
                       f'{kind}, {count} adapters', lambda k=kind, c=count: check_pattern(k, c))


def agreements() -> Iterator[Case]:
    sums = dict.fromkeys(('svd', 'linear', 'cat', 'dare_linear_svd', 'magnitude_prune_svd'), (0.7, -0.2))
    for kind, weights in {**sums, 'ties_svd': (1.0, 1.0), 'dare_ties_svd': (1.0, 1.0)}.items():
        yield Case('as peft computes it', f'{kind}, {weights}', lambda k=kind, w=weights: check_agreement(k, w))


def density(kind, value):
    return dict(density=value) if 'ties' in kind or 'dare' in kind or 'magnitude' in kind else {}


@quiet
def check_rslora(peft, folder, kind):
    theirs, x = trained(peft, folder, use_rslora=True), inputs()
    wanted, plain = theirs(x), net()(x)
    assert (wanted - plain).abs().max() > 0.1
    merge_adapter_folders([folder / 'a0'], folder / 'out', kind, [1.0], **density(kind, 1.0))
    check_loads(peft, folder / 'out', wanted)
    if peft.__version__ in FAULTY:  # sqrt(4) times the change.
        theirs.add_weighted_adapter(['a0'], [1.0], 'one', kind, **density(kind, 1.0))
        theirs.set_adapter('one')
        assert (theirs(x) - wanted).abs().max() > 0.1 * wanted.abs().max()
        for layer in LAYERS:
            layer = theirs.base_model.model.get_submodule(layer)
            close(layer.get_delta_weight('one'), 2 * layer.get_delta_weight('a0'), 1e-5)


@quiet
def check_refused(peft, folder, name, more):
    trained(peft, folder, 2, **more)
    with pytest.raises(ValueError, match=rf'\({OURS.get(name, name)}\)'):
        merge_adapter_folders([folder / 'a0', folder / 'a1'], folder / 'out', 'svd')
    assert not (folder / 'out').exists()


@quiet
def check_pattern(peft, folder, kind, count):
    theirs, x = trained(peft, folder, count, **PATTERN), inputs()
    names, weights = [f'a{number}' for number in range(count)], [1.0, -0.5][:count]
    if 'ties' in kind:
        weights = [1.0, 0.5][:count]
    sparse = density(kind, 1.0 if count == 1 else 0.5)
    merge_adapter_folders([folder / name for name in names], folder / 'out', kind, weights, **sparse)
    merged = mmlora.load_adapter(net(), folder / 'out')(x)
    if count == 1:
        close(merged, theirs(x), 1e-5)
    assert (merged - net()(x)).abs().max() > 0.1
    check_loads(peft, folder / 'out', merged)
    if peft.__version__ in FAULTY and kind in FACTORWISE:
        theirs.add_weighted_adapter(names, weights, 'both', kind, **sparse)
        theirs.save_pretrained(str(folder), selected_adapters=['both'])
        with pytest.raises(RuntimeError, match='size mismatch'):
            peft.PeftModel.from_pretrained(net(), str(folder / 'both'))


@quiet
def check_agreement(peft, folder, kind, weights):
    theirs, x = trained(peft, folder, 2), inputs()
    theirs.add_weighted_adapter(['a0', 'a1'], list(weights), 'both', kind, **density(kind, 1.0))
    theirs.set_adapter('both')
    merge_adapter_folders([folder / 'a0', folder / 'a1'], folder / 'out', kind, weights, **density(kind, 1.0))
    check_loads(peft, folder / 'out', theirs(x))
