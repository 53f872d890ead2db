# Tip-Adapter: no step. The model looks at the training images, is validated if there are validation data, and is saved.
# The optimizer has nothing to do; training asks for one.
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.0))
train_cfg = dict(type='TrainingFreeLoop', val_interval=1)
val_cfg = dict()
test_cfg = dict()
