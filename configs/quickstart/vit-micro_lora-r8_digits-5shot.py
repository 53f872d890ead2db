_base_ = './vit-micro_digits-5shot.py'
method = 'LoRA r=8'
model = dict(backbone=dict(type='VitSR_LoRA', lora_ranks=8, lora_alpha=8))
optim_wrapper = dict(optimizer=dict(lr=1e-3), paramwise_cfg=dict(custom_keys=dict(head=dict(lr_mult=30))))
