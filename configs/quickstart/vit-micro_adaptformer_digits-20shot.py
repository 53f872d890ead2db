_base_ = './vit-micro_adapted_digits-20shot.py'
method = 'AdaptFormer'
model = dict(backbone=dict(kind='AdaptFormer', adapter_cfg=dict(bottleneck=16)))
optim_wrapper = dict(optimizer=dict(lr=1e-2))
