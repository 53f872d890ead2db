# LoRA of rank 8 on ViT-B/16 as NOAH has it: one pair of factors for the whole qkv, at a scaling of 1.
_base_ = './linear_vit-base-p16.py'
method = 'LoRA r=8'
model = dict(
    _scope_='mmpretrain',
    backbone=dict(kind='LoRA', targets='attn.qkv', lora_ranks=8, lora_alpha=8, lora_slices=None),
)
