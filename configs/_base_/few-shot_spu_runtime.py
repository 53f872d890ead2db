# Each iteration trains a random number of the first components of every adapter (stochastic partial update), as
# published for the ViTs. Evaluation uses all of them.
_base_ = './few-shot_runtime.py'
custom_hooks = [dict(type='StepSeedHook'), dict(type='SPUHook', per='iteration')]
