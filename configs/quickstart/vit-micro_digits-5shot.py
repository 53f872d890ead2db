# What all methods share with 5 images per class: the pre-trained backbone, the data and the schedule.
_base_ = [
    '../_base_/models/vit-micro.py',
    '../_base_/datasets/digits.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/adamw_cosine_60i.py',
]
model = dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='mmlora://vit-micro_glyphs')))
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=60))
