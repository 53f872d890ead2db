_base_ = './vit-micro_digits.py'
optim_wrapper = dict(optimizer=dict(lr=1e-3))
