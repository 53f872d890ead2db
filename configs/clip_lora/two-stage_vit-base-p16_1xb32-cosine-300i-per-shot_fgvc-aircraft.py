_base_ = [
    '../_base_/models/two-stage_clip-vit-base-p16.py',
    '../_base_/datasets/clip/fgvc_aircraft.py',
    '../_base_/schedules/two-stage_adamw_cosine_300i-per-shot.py',
    '../_base_/clip_two-stage_runtime.py',
]
run_folder = 'two-stage/vit-base-p16/{dataset_name}/{shot}shots/seed{seed}'
