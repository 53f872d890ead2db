_base_ = [
    '../_base_/models/zero-shot_clip-vit-base-p16.py',
    '../_base_/datasets/clip/imagenet_sketch.py',
    '../_base_/clip_runtime.py',
]
shot = 0
run_folder = 'zero-shot/vit-base-p16/{dataset_name}'
