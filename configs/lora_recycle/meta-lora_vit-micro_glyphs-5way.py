# On a laptop, from the hub and the pool of hub_vit-micro_glyphs-5way.py: see docs/lora_recycle.md.
_base_ = [
    '../_base_/models/meta-lora_vit-micro.py',
    '../_base_/datasets/recycle_glyphs.py',
    '../_base_/schedules/meta-lora_adam_cyclic_240000i.py',
    '../_base_/meta-lora_runtime.py',
]
train_cfg = dict(max_iters=200, val_interval=100)
default_hooks = dict(checkpoint=dict(interval=100))
