# The published schedule of RLRR on VTAB-1k: 100 epochs, the learning rate one epoch late, and 10 more at its end. The
# learning rate and the weight decay are those of most of its data sets; the others are set in leaves. Scales decay,
# shifts of biases and whatever belongs to a normalisation do not.
optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=5e-5),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys={'.rlrr_bias': dict(decay_mult=0.0)},
    ),
)
param_scheduler = [dict(type='LateWarmupCosineLR', T_max=100, warmup=10, warmup_lr=1e-7, eta_min=1e-8)]
train_cfg = dict(by_epoch=True, max_epochs=110)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=32)
