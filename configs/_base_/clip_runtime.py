# The classes of the model are those of the data set, and checkpoints are written by iterations.
_base_ = './default_runtime.py'
custom_hooks = [dict(type='StepSeedHook'), dict(type='ClassNamesHook')]
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=500))
