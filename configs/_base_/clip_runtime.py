# The classes of the model are those of the data set; checkpoints and log lines are by iterations, and seeds begin at 1.
_base_ = './default_runtime.py'
custom_hooks = [dict(type='StepSeedHook'), dict(type='ClassNamesHook')]
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=500))
log_processor = dict(by_epoch=False)
randomness = dict(seed=1)
