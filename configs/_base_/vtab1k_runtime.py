# An epoch is 32 iterations long: write a checkpoint every tenth.
_base_ = './default_runtime.py'
default_hooks = dict(checkpoint=dict(interval=10), logger=dict(interval=10))
