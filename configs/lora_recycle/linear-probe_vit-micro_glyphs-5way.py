# Only for tests: tools/test.py takes mmlora/assets/vit-micro_glyphs.safetensors.
_base_ = ['./prototypes_vit-micro_glyphs-5way.py', '../_base_/tuners/linear-probe.py']
test_cfg = dict(_delete_=True, type='EpisodeTuningLoop', seed=0, tuner={{_base_.tuner}})
