_base_ = [
    '../_base_/models/clip-lora_vit-large-p14.py',
    '../_base_/datasets/clip/stanford_cars.py',
    '../_base_/schedules/clip-lora_adamw_cosine_500i-per-shot.py',
    '../_base_/clip_runtime.py',
]
run_folder = 'clip-lora/vit-large-p14/{dataset_name}/{shot}shots/seed{seed}'
