_base_ = [
    '../_base_/models/rlrr_vit-large-p16.py',
    '../_base_/datasets/fgvc/dogs.py',
    '../_base_/schedules/rlrr_fgvc_restart_50e.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=dict(drop_path_rate=0.0), head=dict(num_classes=120))
optim_wrapper = dict(optimizer=dict(lr=1e-4))
