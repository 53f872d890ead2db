# 2SFS: 300 iterations for each labelled image of a class, 180 of the first stage (the fraction 0.6 of TwoStageHook) and
# 120 of the second one, each with a cosine of its own. No paramwise_cfg: everything decays, as published.
max_iters = dict(per_shot=300)
first_iters = dict(per_shot=180)
second_iters = dict(per_shot=120)
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=2e-4, weight_decay=0.01, betas=(0.9, 0.999), eps=1e-8))
param_scheduler = [
    dict(type='CosineRestartLR', by_epoch=False, end='{max_iters}', periods=['{first_iters}', '{second_iters}'],
         restart_weights=[1, 1], eta_min=1e-6),
]  # yapf: disable
train_cfg = dict(by_epoch=False, max_iters='{max_iters}', val_interval='{max_iters}')
val_cfg = dict()
test_cfg = dict()
