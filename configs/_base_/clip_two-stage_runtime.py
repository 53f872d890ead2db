# clip_runtime.py with the hook that begins the second stage of 2SFS. Several processes must look for parameters without
# gradients, since each stage has some.
_base_ = './clip_runtime.py'
custom_hooks = [dict(type='StepSeedHook'), dict(type='ClassNamesHook'), dict(type='TwoStageHook', fraction=0.6)]
find_unused_parameters = True
