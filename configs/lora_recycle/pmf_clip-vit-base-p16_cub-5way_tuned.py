# Tests of the checkpoints of pmf_clip-vit-base-p16_cub-5way.py that go on to learn from the support of each episode.
_base_ = './pmf_clip-vit-base-p16_cub-5way.py'
test_cfg = dict(_delete_=True, type='EpisodeTuningLoop', seed=0, tuner={{_base_.tuner}})
