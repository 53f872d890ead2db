"""Automatic ranks through training, resuming and testing: one config, always the ranks of the first run."""

import pytest
import tiny

from mmlora.apis import test as run_test
from mmlora.apis import train


@pytest.fixture(scope='module')
def automatic(whole_run):
    """Options that ask for ranks from the stable ranks of pre-trained weights."""
    return dict(
        model__backbone__type='VitSR_LoRA', model__backbone__lora_ranks='stable_rank',
        load_from=str(whole_run / 'epoch_3.pth'), custom_hooks=[dict(type='StableRankHook')],
        default_hooks__checkpoint__max_keep_ckpts=2,
    )  # yapf: disable


def test_ranks_are_settled_once_and_then_carried_by_the_checkpoint(tmp_path, images, automatic):
    whole = train(tiny.tiny_config(images, tmp_path / 'whole', **automatic))
    ranks = whole.cfg.model.backbone.lora_ranks
    assert [[type(rank) for rank in block] for block in ranks] == [[int, int]] * 2
    saved = tiny.load(tmp_path / 'whole' / 'epoch_3.pth')['meta']['mmlora']
    assert saved['ranks']['backbone.layers.0.attn.qkv'] == dict(q=ranks[0][0], v=ranks[0][0])
    assert saved['rank_table']['rows'][0]['rank'] == ranks[0][0]

    # The same symbolic config resumes and tests with the ranks of the checkpoint, which is what it can load.
    resumed = train(tiny.tiny_config(images, tmp_path / 'resumed', **automatic),
                    resume=str(tmp_path / 'whole' / 'epoch_2.pth'))
    assert resumed.cfg.model.backbone.lora_ranks == ranks
    assert not tiny.differing_runs(tmp_path / 'whole' / 'epoch_3.pth', tmp_path / 'resumed' / 'epoch_3.pth')
    cfg = tiny.tiny_config(images, tmp_path / 'test', **automatic)
    metrics = run_test(cfg, str(tmp_path / 'whole' / 'epoch_3.pth'))
    assert metrics['accuracy/top1'] == whole.message_hub.get_scalar('val/accuracy/top1').current()


def test_a_symbolic_rank_without_weights_is_an_error(tmp_path, images, automatic):
    cfg = tiny.tiny_config(images, tmp_path, **{**automatic, 'load_from': None})
    with pytest.raises(ValueError, match='stable_rank'):
        train(cfg)
