_base_ = [
    '../_base_/models/rlrr_vit-base-p16.py',
    '../_base_/datasets/fgvc/cub.py',
    '../_base_/schedules/rlrr_fgvc_restart_50e.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=dict(drop_path_rate=0.1), head=dict(num_classes=200))
optim_wrapper = dict(optimizer=dict(lr=3e-3))
