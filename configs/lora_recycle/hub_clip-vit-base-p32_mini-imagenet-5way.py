_base_ = [
    '../_base_/models/clip-image-encoder_vit-base-p32.py',
    '../_base_/datasets/hub/mini-imagenet.py',
    '../_base_/hub_runtime.py',
]
