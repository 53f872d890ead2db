_base_ = [
    '../_base_/models/coop_clip-vit-base-p16.py',
    '../_base_/datasets/clip/imagenet.py',
    '../_base_/schedules/coop_sgd_cosine.py',
    '../_base_/clip_epoch_runtime.py',
]
max_epochs = dict(_delete_=True, from_shot_1=50)
run_folder = 'coop/vit-base-p16/{dataset_name}/{shot}shots/seed{seed}'
