optim_wrapper = dict(optimizer=dict(type='AdamW', lr=1e-3), clip_grad=dict(max_norm=1.0))
param_scheduler = dict(type='CosineAnnealingLR', T_max=2000, by_epoch=False)
train_cfg = dict(type='mmlora.IterTrainLoop', max_iters=2000)
