optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.01),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=5),
    dict(type='CosineAnnealingLR', T_max=60, by_epoch=False),
]
train_cfg = dict(by_epoch=False, max_iters=60, val_interval=1000)
val_cfg = dict()
test_cfg = dict()
