_base_ = [
    '../_base_/models/coop_clip-vit-base-p16.py',
    '../_base_/datasets/clip/fgvc_aircraft.py',
    '../_base_/schedules/coop_sgd_cosine.py',
    '../_base_/clip_epoch_runtime.py',
]
run_folder = 'coop/vit-base-p16/{dataset_name}/{shot}shots/seed{seed}'
