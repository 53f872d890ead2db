_base_ = './vit-micro_adapted_digits-20shot.py'
method = 'LayerNorm tuning'
model = dict(backbone=dict(kind='LayerNormTune'))
optim_wrapper = dict(optimizer=dict(lr=1e-2))
