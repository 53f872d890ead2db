"""LoRAs go to peft and come from it: every case of the table gives the same features there and here, or an error."""

import copy
import functools
import json

import pytest
import torch
import torch.nn as nn
from exchange_models import THEIRS, draw, pair_of_models
from exchange_table import FROM_PEFT, TO_PEFT, table

import mmlora
from mmlora.adapters.lora_weights import adapt_with
from mmlora.io.lora_folder import read_lora_folder

CLOSE = dict(atol=1e-5, rtol=1e-5)
models = functools.cache(pair_of_models)


@pytest.mark.parametrize(('name', 'library'), [
    (name, lib) for name, case in FROM_PEFT.items() for lib in case.libraries])
def test_from_peft(name, library, tmp_path):
    peft = pytest.importorskip('peft')
    case, (theirs, ours, x) = FROM_PEFT[name], copy.deepcopy(models(library))
    config = peft.LoraConfig(**dict(dict(r=3, lora_alpha=4), **case.config(library)))
    adapted = peft.get_peft_model(theirs, config, adapter_name=case.adapter).eval()
    factors = {key: value for key, value in adapted.named_parameters() if 'lora_' in key}
    for value in factors.values():
        nn.init.normal_(value, std=0.2)
        value.data = value.data.to(case.dtype)
    adapted.save_pretrained(str(tmp_path))
    folder = tmp_path / case.adapter if case.adapter != 'default' else tmp_path
    for value in factors.values():
        value.data = value.data.float()
    if case.change:
        case.change(folder)
    if case.refused:
        with pytest.raises(ValueError, match=case.refused):
            mmlora.load_adapter(ours, folder)
        return
    before = ours(x)[-1]
    mmlora.load_adapter(ours, folder)
    assert (before - ours(x)[-1]).abs().max() > 0.01
    torch.testing.assert_close(ours(x)[-1], THEIRS[library][2](adapted.base_model.model, x), **CLOSE)


@pytest.mark.parametrize(('name', 'library'), [
    (name, lib) for name, case in TO_PEFT.items() for lib in case.libraries])
def test_to_peft_and_back(name, library, tmp_path):
    peft = pytest.importorskip('peft')
    theirs, plain, x = copy.deepcopy(models(library))
    ours = copy.deepcopy(plain)
    torch.manual_seed(1)
    adapt_with(ours, draw(**TO_PEFT[name].lora))
    mmlora.save_adapter(ours, tmp_path / 'a', library=library)
    adapted, expected = peft.PeftModel.from_pretrained(theirs, str(tmp_path / 'a')).eval(), ours(x)[-1]
    assert (expected - plain(x)[-1]).abs().max() > 0.01
    torch.testing.assert_close(THEIRS[library][2](adapted.base_model.model, x), expected, **CLOSE)
    again = mmlora.load_adapter(copy.deepcopy(plain), tmp_path / 'a')
    torch.testing.assert_close(again(x)[-1], expected, **CLOSE)
    mmlora.save_adapter(again, tmp_path / 'b', library=library)  # Of a bank.
    adapted.load_adapter(str(tmp_path / 'b'), 'b')
    adapted.set_adapter('b')
    torch.testing.assert_close(THEIRS[library][2](adapted.base_model.model, x), expected, **CLOSE)


def test_out_proj_of_another_version_of_peft(tmp_path):
    """It may compute something else."""
    peft = pytest.importorskip('peft')
    theirs = copy.deepcopy(models('open_clip')[0])
    adapted = peft.get_peft_model(theirs, peft.LoraConfig(r=2, target_modules=['attn'])).eval()
    for key, value in adapted.named_parameters():
        if 'lora_' in key:
            nn.init.normal_(value)
    adapted.save_pretrained(str(tmp_path))
    path = tmp_path / 'adapter_config.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), 'peft_version': '0.99'}))
    with pytest.raises(ValueError, match=r"out_proj: the file is of peft '0\.99'"):
        read_lora_folder(tmp_path)


def test_the_documentation_has_the_table(root):
    assert table() in (root / 'docs' / 'reliability.md').read_text(encoding='utf-8')
