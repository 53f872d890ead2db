_base_ = [
    '../_base_/models/rlrr_vit-huge-p14.py',
    '../_base_/datasets/fgvc/nabirds.py',
    '../_base_/schedules/rlrr_fgvc_50e.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=dict(drop_path_rate=0.3), head=dict(num_classes=555))
optim_wrapper = dict(optimizer=dict(lr=5e-4))
