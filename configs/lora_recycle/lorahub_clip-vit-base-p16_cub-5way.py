# Only for tests: tools/test.py takes weights/ViT-B-16.pt.
_base_ = ['./prototypes_clip-vit-base-p16_cub-5way.py', '../_base_/tuners/lorahub.py']
test_cfg = dict(_delete_=True, type='EpisodeTuningLoop', seed=0, tuner={{_base_.tuner}})
