_base_ = './vit-micro_digits-5shot.py'
method = 'RLRR'
model = dict(backbone=dict(type='RLRRViT'))
optim_wrapper = dict(
    optimizer=dict(lr=1e-2), paramwise_cfg=dict(custom_keys={'.rlrr_bias': dict(decay_mult=0.0)})
)
