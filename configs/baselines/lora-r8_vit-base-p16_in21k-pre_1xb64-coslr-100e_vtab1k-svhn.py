_base_ = [
    '../_base_/models/lora-r8_vit-base-p16.py',
    '../_base_/datasets/vtab1k_imagenet_224/svhn.py',
    '../_base_/schedules/noah_adamw_coslr-100e.py',
    '../_base_/vtab1k_runtime.py',
]
model = dict(head=dict(num_classes=10))
