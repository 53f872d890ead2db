_base_ = [
    '../_base_/models/rlrr_vit-large-p16.py',
    '../_base_/datasets/vtab1k_half_flip_224/dtd.py',
    '../_base_/schedules/rlrr_adamw_110e.py',
    '../_base_/vtab1k_runtime.py',
]
model = dict(backbone=dict(drop_path_rate=0.1), head=dict(num_classes=47))
optim_wrapper = dict(optimizer=dict(lr=2e-3, weight_decay=5e-5))
