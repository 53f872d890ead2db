# The published schedule of RLRR on CUB and Stanford Dogs: a cosine that starts again every 5 epochs, without warm-up,
# one epoch late, for 50 epochs and 10 more. Dogs learns with lr=1e-4.
_base_ = './rlrr_fgvc_50e.py'
param_scheduler = [dict(type='LateCosineRestartLR', period=5)]
