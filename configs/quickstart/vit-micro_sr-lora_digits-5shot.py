_base_ = './vit-micro_digits.py'
model = dict(backbone=dict(type='VitSR_LoRA', lora_ranks='stable_rank', lora_alpha=8))
optim_wrapper = dict(optimizer=dict(lr=5e-3))
custom_hooks = [dict(type='StepSeedHook'), dict(type='StableRankHook')]
