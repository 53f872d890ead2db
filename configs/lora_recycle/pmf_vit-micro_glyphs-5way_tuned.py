# Tests of the checkpoints of pmf_vit-micro_glyphs-5way.py that go on to learn from the support of each episode.
_base_ = './pmf_vit-micro_glyphs-5way.py'
test_cfg = dict(_delete_=True, type='EpisodeTuningLoop', seed=0, tuner={{_base_.tuner}})
