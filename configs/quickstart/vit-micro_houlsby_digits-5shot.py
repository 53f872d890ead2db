_base_ = './vit-micro_adapted_digits-5shot.py'
method = 'Houlsby adapter'
model = dict(backbone=dict(kind='Houlsby', adapter_cfg=dict(bottleneck=8)))
optim_wrapper = dict(optimizer=dict(lr=1e-2))
