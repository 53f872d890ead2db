_base_ = './vit-micro_digits-20shot.py'
model = dict(backbone=dict(frozen_stages=4))
optim_wrapper = dict(optimizer=dict(lr=3e-2))
