# The optimizer and the number of iterations of 2SFS, with one cosine over all of them: 300 for each labelled image of a
# class. No paramwise_cfg: normalisations decay, as there.
max_iters = dict(per_shot=300)
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=2e-4, weight_decay=0.01, betas=(0.9, 0.999), eps=1e-8))
param_scheduler = [dict(type='CosineAnnealingLR', by_epoch=False, T_max='{max_iters}', end='{max_iters}', eta_min=1e-6)]
train_cfg = dict(by_epoch=False, max_iters='{max_iters}', val_interval='{max_iters}')
val_cfg = dict()
test_cfg = dict()
