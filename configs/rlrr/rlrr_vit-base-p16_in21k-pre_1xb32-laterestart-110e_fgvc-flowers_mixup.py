_base_ = [
    '../_base_/models/rlrr_vit-base-p16_mixup.py',
    '../_base_/datasets/fgvc/flowers.py',
    '../_base_/schedules/rlrr_fgvc_aug_100e.py',
    '../_base_/ema_runtime.py',
]
data_preprocessor = dict(num_classes=102)
model = dict(backbone=dict(drop_path_rate=0.2), head=dict(num_classes=102))
optim_wrapper = dict(optimizer=dict(lr=3e-3))
