_base_ = [
    '../_base_/models/linear-probe_clip-vit-base-p16.py',
    '../_base_/datasets/clip/food101.py',
    '../_base_/schedules/linear-probe_adamw_cosine_100e.py',
    '../_base_/clip_feature_cache.py',
]
run_folder = 'linear-probe/vit-base-p16/{dataset_name}/{shot}shots/seed{seed}'
