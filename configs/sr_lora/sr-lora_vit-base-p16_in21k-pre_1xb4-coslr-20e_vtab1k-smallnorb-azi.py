_base_ = [
    '../_base_/models/sr-lora_vit-base-p16_384.py',
    '../_base_/datasets/vtab1k/smallnorb-azi.py',
    '../_base_/schedules/sr-lora_vit_coslr-20e.py',
    '../_base_/few-shot_spu_runtime.py',
]
model = dict(head=dict(num_classes=18))
