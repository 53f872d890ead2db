# LoRA whose iterations train a random number of its first components, as DyLoRA does; see docs/spu.md.
_base_ = './vit-micro_adapted_digits-20shot.py'
method = 'DyLoRA'
model = dict(backbone=dict(kind='LoRA', targets=('attn.qkv', 'attn.proj'), lora_ranks=8, lora_alpha=32))
optim_wrapper = dict(optimizer=dict(lr=5e-3), paramwise_cfg=dict(custom_keys=dict(head=dict(lr_mult=1))))
custom_hooks = [dict(type='StepSeedHook'), dict(type='SPUHook')]
