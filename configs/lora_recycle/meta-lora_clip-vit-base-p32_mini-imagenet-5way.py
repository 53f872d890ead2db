_base_ = [
    '../_base_/models/meta-lora_clip-vit-base-p32.py',
    '../_base_/datasets/recycle/mini-imagenet.py',
    '../_base_/schedules/meta-lora_adam_cyclic_240000i.py',
    '../_base_/meta-lora_runtime.py',
]
hub_folder = 'work_dirs/hubs/hub_clip-vit-base-p32_mini-imagenet-5way'
pool_folder = 'work_dirs/pools/clip-vit-base-p32_mini-imagenet-5way'
