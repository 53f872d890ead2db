# No step: the model looks at the training images, and that is all.
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=1e-3))
train_cfg = dict(type='TrainingFreeLoop')
val_cfg = None
