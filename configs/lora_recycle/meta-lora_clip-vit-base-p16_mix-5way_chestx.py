# For tests of what meta-lora_clip-vit-base-p16_mix-5way.py has learned.
_base_ = [
    '../_base_/models/meta-lora_clip-vit-base-p16.py',
    '../_base_/datasets/recycle/mix_chestx.py',
    '../_base_/schedules/meta-lora_adam_cyclic_240000i.py',
    '../_base_/meta-lora_runtime.py',
]
