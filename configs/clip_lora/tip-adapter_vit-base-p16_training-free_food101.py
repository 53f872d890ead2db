_base_ = [
    '../_base_/models/tip-adapter_clip-vit-base-p16.py',
    '../_base_/datasets/clip/food101.py',
    '../_base_/schedules/tip-adapter_training-free.py',
    '../_base_/clip_feature_cache.py',
]
run_folder = 'tip-adapter/vit-base-p16/{dataset_name}/{shot}shots/seed{seed}'
