# Images of your own: data/images/train/CLASS/*.jpg and data/images/test/CLASS/*.jpg, folders called after the classes.
_base_ = [
    '../_base_/models/clip-lora_vit-base-p16.py',
    '../_base_/datasets/clip/class_folders.py',
    '../_base_/schedules/clip-lora_adamw_cosine_500i-per-shot.py',
    '../_base_/clip_runtime.py',
]
dataset_name, data_root, shot = 'images', 'data/images', 16
run_folder = 'clip-lora/vit-base-p16/{dataset_name}/{shot}shots/seed{seed}'
