_base_ = [
    '../_base_/models/bitfit_vit-base-p16.py',
    '../_base_/datasets/vtab1k_imagenet_224/dsprites-loc.py',
    '../_base_/schedules/noah_adamw_coslr-100e.py',
    '../_base_/vtab1k_runtime.py',
]
model = dict(head=dict(num_classes=16))
