_base_ = './vit-micro_adapted_digits-5shot.py'
method = 'MoSLoRA'
model = dict(backbone=dict(kind='MoSLoRA', targets=('attn.qkv', 'attn.proj'), lora_ranks=8, lora_alpha=8))
optim_wrapper = dict(optimizer=dict(lr=1e-3), paramwise_cfg=dict(custom_keys=dict(head=dict(lr_mult=30))))
