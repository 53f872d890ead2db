# AdamW without weight decay; the learning rate falls linearly to 0 over all steps, without warm-up.
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=5e-6, weight_decay=0.0))
param_scheduler = dict(type='LinearLR', start_factor=1.0, end_factor=0.0, end=200, convert_to_iter_based=True)
train_cfg = dict(by_epoch=True, max_epochs=200)
