_base_ = [
    '../_base_/models/clip-lora_vit-base-p32.py',
    '../_base_/datasets/clip/dtd.py',
    '../_base_/schedules/clip-lora_adamw_cosine_500i-per-shot.py',
    '../_base_/clip_runtime.py',
]
run_folder = 'clip-lora/vit-base-p32/{dataset_name}/{shot}shots/seed{seed}'
