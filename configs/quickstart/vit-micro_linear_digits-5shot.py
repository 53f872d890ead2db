_base_ = './vit-micro_digits-5shot.py'
model = dict(backbone=dict(frozen_stages=4))
optim_wrapper = dict(optimizer=dict(lr=1e-2))
