_base_ = './vit-micro_adapted_digits-20shot.py'
method = 'GLoRA'
model = dict(backbone=dict(kind='GLoRA', targets=('attn.qkv', 'attn.proj'), lora_ranks=8))
optim_wrapper = dict(optimizer=dict(lr=1e-2))
