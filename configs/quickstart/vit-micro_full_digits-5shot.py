_base_ = './vit-micro_adapted_digits-5shot.py'
method = 'Full fine-tuning'
model = dict(backbone=dict(kind='FullFineTune'))
optim_wrapper = dict(optimizer=dict(lr=3e-4), paramwise_cfg=dict(custom_keys=dict(head=dict(lr_mult=30))))
