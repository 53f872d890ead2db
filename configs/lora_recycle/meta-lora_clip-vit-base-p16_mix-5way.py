_base_ = [
    '../_base_/models/meta-lora_clip-vit-base-p16.py',
    '../_base_/datasets/recycle/mix.py',
    '../_base_/schedules/meta-lora_adam_cyclic_240000i.py',
    '../_base_/meta-lora_runtime.py',
]
