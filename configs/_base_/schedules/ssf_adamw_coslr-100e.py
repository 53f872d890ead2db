# The published schedule of SSF, without the ten last epochs at its smallest learning rate; a leaf gives lr and
# weight_decay. The weight of the head alone decays.
_base_ = './noah_adamw_coslr-100e.py'
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'.ssf_': dict(decay_mult=0.0)}))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, end=10, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', T_max=90, begin=10, end=100, eta_min=1e-8, convert_to_iter_based=True),
]
