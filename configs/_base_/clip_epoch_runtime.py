# clip_runtime.py for schedules that count epochs.
_base_ = './clip_runtime.py'
default_hooks = dict(checkpoint=dict(by_epoch=True, interval=10))
log_processor = dict(by_epoch=True)
