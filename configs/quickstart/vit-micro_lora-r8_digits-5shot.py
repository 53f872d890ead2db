_base_ = './vit-micro_digits.py'
model = dict(backbone=dict(type='VitSR_LoRA', lora_ranks=8, lora_alpha=8))
optim_wrapper = dict(optimizer=dict(lr=5e-3))
