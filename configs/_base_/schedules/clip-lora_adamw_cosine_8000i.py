# 500 iterations for each labelled image of a class, here 16. For another number of shots change all four numbers.
# No paramwise_cfg: weight decay is that of every factor.
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=2e-4, weight_decay=0.01, betas=(0.9, 0.999), eps=1e-8))
param_scheduler = [dict(type='CosineAnnealingLR', by_epoch=False, T_max=8000, end=8000, eta_min=1e-6)]
train_cfg = dict(by_epoch=False, max_iters=8000, val_interval=8000)
val_cfg = dict()
test_cfg = dict()
