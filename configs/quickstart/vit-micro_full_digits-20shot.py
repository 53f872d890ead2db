_base_ = './vit-micro_adapted_digits-20shot.py'
method = 'Full fine-tuning'
model = dict(backbone=dict(kind='FullFineTune'))
optim_wrapper = dict(optimizer=dict(lr=1e-3), paramwise_cfg=dict(custom_keys=dict(head=dict(lr_mult=1))))
