_base_ = [
    '../_base_/models/rlrr_vit-large-p32.py',
    '../_base_/datasets/fgvc/cars.py',
    '../_base_/schedules/rlrr_fgvc_50e.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=dict(drop_path_rate=0.2), head=dict(num_classes=196))
optim_wrapper = dict(optimizer=dict(lr=3e-3))
