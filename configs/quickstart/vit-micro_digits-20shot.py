# What all methods share with 20 images per class, which are worth a longer schedule.
_base_ = './vit-micro_digits-5shot.py'
train_dataloader = dict(dataset=dict(n_shot=20))
train_cfg = dict(max_iters=200)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=5),
    dict(type='CosineAnnealingLR', T_max=200, by_epoch=False),
]
default_hooks = dict(checkpoint=dict(interval=200))
