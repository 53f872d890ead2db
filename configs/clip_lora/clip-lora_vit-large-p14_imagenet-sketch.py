# To test checkpoints that were trained on ImageNet.
_base_ = [
    '../_base_/models/clip-lora_vit-large-p14.py',
    '../_base_/datasets/clip/imagenet_sketch.py',
    '../_base_/clip_runtime.py',
]
run_folder = 'clip-lora/vit-large-p14/{dataset_name}'
