_base_ = './vit-micro_digits-5shot.py'
method = 'SR-LoRA'
model = dict(backbone=dict(type='VitSR_LoRA', lora_ranks='stable_rank', lora_alpha=8))
optim_wrapper = dict(optimizer=dict(lr=1e-3), paramwise_cfg=dict(custom_keys=dict(head=dict(lr_mult=30))))
custom_hooks = [dict(type='StepSeedHook'), dict(type='StableRankHook')]
