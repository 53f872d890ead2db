_base_ = './vit-micro_adapted_digits-5shot.py'
method = 'SSF'
model = dict(backbone=dict(kind='SSF'))
optim_wrapper = dict(optimizer=dict(lr=1e-2))
