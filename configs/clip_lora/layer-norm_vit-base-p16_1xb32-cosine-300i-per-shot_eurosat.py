_base_ = [
    '../_base_/models/layer-norm_clip-vit-base-p16.py',
    '../_base_/datasets/clip/eurosat.py',
    '../_base_/schedules/layer-norm_adamw_cosine_300i-per-shot.py',
    '../_base_/clip_runtime.py',
]
run_folder = 'layer-norm/vit-base-p16/{dataset_name}/{shot}shots/seed{seed}'
