optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.01),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)
# No warm-up: with few images an epoch may be a single iteration, and fresh adapters start at zero anyway.
param_scheduler = [dict(type='CosineAnnealingLR', T_max=20, end=20, convert_to_iter_based=True)]
train_cfg = dict(by_epoch=True, max_epochs=20)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=32)
