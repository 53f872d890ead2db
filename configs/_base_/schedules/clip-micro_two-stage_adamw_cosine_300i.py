# 2SFS in 300 iterations, 180 of the first stage and 120 of the second, each with a cosine of its own.
_base_ = './clip-micro_adamw_cosine_300i.py'
first_iters = 180
second_iters = 120
param_scheduler = [
    dict(type='CosineRestartLR', by_epoch=False, end='{max_iters}', periods=['{first_iters}', '{second_iters}'],
         restart_weights=[1, 1], eta_min=1e-6),
]  # yapf: disable
