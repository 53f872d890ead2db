_base_ = [
    '../_base_/models/clip-image-encoder_vit-base-p16.py',
    '../_base_/datasets/hub/vgg-flower.py',
    '../_base_/hub_runtime.py',
]
