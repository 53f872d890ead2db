_base_ = [
    '../_base_/models/tip-adapter-f_clip-vit-base-p16.py',
    '../_base_/datasets/clip/eurosat.py',
    '../_base_/schedules/tip-adapter-f_adamw_cosine_20e.py',
    '../_base_/clip_feature_cache.py',
]
max_epochs = 100
train_dataloader = dict(batch_size=256)
run_folder = 'tip-adapter-f/vit-base-p16/{dataset_name}/{shot}shots/seed{seed}'
