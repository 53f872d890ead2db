_base_ = './vit-micro_adapted_digits-20shot.py'
method = 'VPT-shallow'
model = dict(backbone=dict(kind='VPT', adapter_cfg=dict(num_tokens=8, deep=False)))
optim_wrapper = dict(optimizer=dict(lr=1e-2))
