# No step: the generator is fitted to the bank and saved. The optimizer has nothing to do; training asks for one.
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.0))
train_cfg = dict(type='TrainingFreeLoop')
