# The published schedule of the ViTs. An epoch of one image per class is a few iterations, hence the warm-up of 20
# iterations; end=21, because LinearLR takes end - begin - 1 steps to reach the learning rate.
optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    paramwise_cfg=dict(custom_keys={'.cls_token': dict(decay_mult=0.0), '.pos_embed': dict(decay_mult=0.0)}),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, end=21),
    dict(type='CosineAnnealingLR', T_max=20, end=20, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=20)
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=4)
