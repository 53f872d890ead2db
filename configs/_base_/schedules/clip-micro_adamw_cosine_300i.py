# 300 iterations for any number of shots. A leaf has the learning rate, which was chosen on the letters for that.
max_iters = 300
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.01))
param_scheduler = [dict(type='CosineAnnealingLR', by_epoch=False, T_max='{max_iters}', end='{max_iters}', eta_min=1e-6)]
train_cfg = dict(by_epoch=False, max_iters='{max_iters}', val_interval='{max_iters}')
val_cfg = None
test_cfg = dict()
