# The network whose statistics are the prior of images in docs/inversion.md.
_base_ = ['../_base_/models/resnet-micro.py', '../_base_/datasets/glyphs.py', '../_base_/default_runtime.py']

model = dict(head=dict(num_classes=1138))
optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=1e-2, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)
train_cfg = dict(by_epoch=True, max_epochs=4)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=100),
    dict(type='CosineAnnealingLR', T_max=3, begin=1, end=4, convert_to_iter_based=True),
]
