# The same for generators that learn from episodes: checkpoints and log lines by iterations.
_base_ = './generator_runtime.py'
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=500))
log_processor = dict(by_epoch=False)
