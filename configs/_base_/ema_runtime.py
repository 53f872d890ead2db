# Validation, tests and checkpoints take the moving average of the weights, whose decay is 1 - momentum = 0.9998.
# Running statistics of normalisations are averaged, too; frozen weights stay as they are, bit for bit.
_base_ = './default_runtime.py'
custom_hooks = [dict(type='StepSeedHook'), dict(type='EMAHook', momentum=0.0002, update_buffers=True)]
