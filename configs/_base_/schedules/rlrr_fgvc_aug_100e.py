# The published schedule of RLRR on all FGVC sets with Mixup, CutMix and averaged weights: a cosine that starts again
# after 10, 30 and 70 epochs, without warm-up, one epoch late, for 100 epochs and 10 more. NABirds learns with lr=5e-4,
# Dogs with lr=1e-4. Needs the model base of _mixup and ema_runtime.py beside it.
_base_ = './rlrr_fgvc_50e.py'
param_scheduler = [dict(type='LateCosineRestartLR', period=10, factor=2)]
train_cfg = dict(max_epochs=110)
