_base_ = './vit-micro_adapted_digits-5shot.py'
method = 'BitFit'
model = dict(backbone=dict(kind='BitFit'))
optim_wrapper = dict(optimizer=dict(lr=1e-2))
