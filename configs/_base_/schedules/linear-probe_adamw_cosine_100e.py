# A linear probe: 100 epochs of AdamW and a cosine to 0, step by step. Ours, not tuned: the published probe of CLIP is a
# logistic regression by L-BFGS.
max_epochs = 100
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.01))
param_scheduler = [
    dict(type='CosineAnnealingLR', by_epoch=True, convert_to_iter_based=True, T_max='{max_epochs}', end='{max_epochs}')
]
train_cfg = dict(by_epoch=True, max_epochs='{max_epochs}', val_interval='{max_epochs}')
val_cfg = dict()
test_cfg = dict()
