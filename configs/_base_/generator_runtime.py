# Generators of LoRAs are fitted to their bank before the first step.
_base_ = './default_runtime.py'
custom_hooks = [dict(type='StepSeedHook'), dict(type='FitGeneratorHook')]
randomness = dict(seed=0)
default_hooks = dict(checkpoint=dict(interval=10))
