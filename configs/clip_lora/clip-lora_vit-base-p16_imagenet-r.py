# To test checkpoints that were trained on ImageNet.
_base_ = [
    '../_base_/models/clip-lora_vit-base-p16.py',
    '../_base_/datasets/clip/imagenet_r.py',
    '../_base_/clip_runtime.py',
]
run_folder = 'clip-lora/vit-base-p16/{dataset_name}'
