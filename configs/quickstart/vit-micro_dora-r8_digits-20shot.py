_base_ = './vit-micro_adapted_digits-20shot.py'
method = 'DoRA'
model = dict(backbone=dict(kind='DoRA', targets=('attn.qkv', 'attn.proj'), lora_ranks=8, lora_alpha=32))
optim_wrapper = dict(optimizer=dict(lr=5e-3), paramwise_cfg=dict(custom_keys=dict(head=dict(lr_mult=1))))
