_base_ = './vit-micro_adapted_digits-5shot.py'
method = 'Linear probe'
model = dict(backbone=dict(kind='LinearProbe'))
optim_wrapper = dict(optimizer=dict(lr=1e-2))
