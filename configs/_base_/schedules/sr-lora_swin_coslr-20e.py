# The published schedule of the Swin transformers; it ends at 1 % of the learning rate. mmengine's
# schedulers follow it to 0.1 %.
optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys={'.relative_position_bias_table': dict(decay_mult=0.0)},
    ),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, end=21),
    dict(type='CosineAnnealingLR', T_max=20, end=20, eta_min_ratio=0.01, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=20)
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=4)
