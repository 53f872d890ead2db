# The published schedule of RLRR on NABirds, Flowers and Cars: 50 epochs, the learning rate one epoch late, and 10 more
# at its end. NABirds learns with lr=5e-4.
_base_ = './rlrr_adamw_110e.py'
optim_wrapper = dict(optimizer=dict(lr=3e-3, weight_decay=5e-2))
param_scheduler = [dict(type='LateWarmupCosineLR', T_max=50, warmup=10, warmup_lr=1e-7, eta_min=1e-8)]
train_cfg = dict(max_epochs=60)
