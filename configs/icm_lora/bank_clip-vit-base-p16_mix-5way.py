_base_ = [
    '../_base_/models/clip-image-encoder_vit-base-p16.py',
    '../_base_/datasets/hub/mix.py',
    '../_base_/bank_runtime.py',
]
