_base_ = [
    '../_base_/models/clip-image-encoder_vit-base-p16.py',
    '../_base_/datasets/hub/cifar-fs.py',
    '../_base_/hub_runtime.py',
]
