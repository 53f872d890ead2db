_base_ = [
    '../_base_/models/sr-lora_swin-base-w12_384.py',
    '../_base_/datasets/vtab1k/svhn.py',
    '../_base_/schedules/sr-lora_swin_coslr-20e.py',
    '../_base_/few-shot_runtime.py',
]
model = dict(head=dict(num_classes=10))
