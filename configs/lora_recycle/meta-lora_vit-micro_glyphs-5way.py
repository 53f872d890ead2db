# On a laptop, from the hub of the package and the pool of the page of LoRA-Recycle: see docs/lora_recycle.md.
_base_ = [
    '../_base_/models/meta-lora_vit-micro.py',
    '../_base_/datasets/recycle_glyphs.py',
    '../_base_/schedules/meta-lora_adam_cyclic_240000i.py',
    '../_base_/meta-lora_runtime.py',
]
train_dataloader = dict(batch_sampler=dict(n_query=5))
optim_wrapper = dict(optimizer=dict(lr=3e-3))
train_cfg = dict(max_iters=100, val_interval=50)
default_hooks = dict(checkpoint=dict(interval=50))
