_base_ = [
    '../_base_/models/vpt-deep_vit-base-p16.py',
    '../_base_/datasets/vtab1k_imagenet_224/kitti.py',
    '../_base_/schedules/vpt_sgd_coslr-100e.py',
    '../_base_/vtab1k_runtime.py',
]
model = dict(head=dict(num_classes=4))
