_base_ = './vit-micro_digits-20shot.py'
method = 'SR-LoRA'
model = dict(backbone=dict(type='VitSR_LoRA', lora_ranks='stable_rank', lora_alpha=32))
optim_wrapper = dict(optimizer=dict(lr=5e-3), paramwise_cfg=dict(custom_keys=dict(head=dict(lr_mult=1))))
custom_hooks = [dict(type='StepSeedHook'), dict(type='StableRankHook')]
