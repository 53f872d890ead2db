# An epoch is a few iterations long: write a checkpoint every fifth, and log more often.
_base_ = './default_runtime.py'
default_hooks = dict(checkpoint=dict(interval=5), logger=dict(interval=10))
