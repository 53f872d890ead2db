# P>M>F (CVPR 2022) on a laptop: all weights learn on episodes of real letters of the training scripts, without a hub.
_base_ = ['./prototypes_vit-micro_glyphs-5way.py', '../_base_/tuners/pmf.py']
letters = dict(type='Glyphs', split='train', distortion='rough', samples_per_class=60)
images = dict(**letters, pipeline=[dict(type='PackInputs')])
model = dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='mmlora://vit-micro_glyphs')))
train_dataloader = dict(dataset=dict(_delete_=True, type='EpisodicDataset', dataset=images))
optim_wrapper = dict(optimizer=dict(type='Adam', lr=1e-4))
custom_hooks = [dict(type='StepSeedHook')]
