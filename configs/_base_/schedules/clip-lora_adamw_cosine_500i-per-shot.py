# 500 iterations for each labelled image of a class: shot=4 trains 2000. max_iters=3000 or max_iters.per_shot=300
# changes it. No paramwise_cfg: weight decay is that of every factor.
max_iters = dict(per_shot=500)
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=2e-4, weight_decay=0.01, betas=(0.9, 0.999), eps=1e-8))
param_scheduler = [dict(type='CosineAnnealingLR', by_epoch=False, T_max='{max_iters}', end='{max_iters}', eta_min=1e-6)]
train_cfg = dict(by_epoch=False, max_iters='{max_iters}', val_interval='{max_iters}')
val_cfg = dict()
test_cfg = dict()
