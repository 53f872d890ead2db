_base_ = [
    '../_base_/models/rlrr_swin-base-w7.py',
    '../_base_/datasets/vtab1k_half_flip_224/dmlab.py',
    '../_base_/schedules/rlrr_adamw_110e.py',
    '../_base_/vtab1k_runtime.py',
]
model = dict(backbone=dict(drop_path_rate=0.3), head=dict(num_classes=6))
optim_wrapper = dict(optimizer=dict(lr=5e-3, weight_decay=5e-5))
