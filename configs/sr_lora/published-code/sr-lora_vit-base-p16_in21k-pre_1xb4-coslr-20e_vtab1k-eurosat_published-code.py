# The published code builds the network for 224 px, so that the position embedding of the checkpoint is shrunk to 14x14
# and enlarged again. It draws the sub-rank of qkv in each forward pass, with rows of v that depend on it, and trains
# the last drawn component of the projection alone.
_base_ = '../sr-lora_vit-base-p16_in21k-pre_1xb4-coslr-20e_vtab1k-eurosat.py'
method = 'SR-LoRA (published code)'
model = dict(backbone=dict(img_size=224))
custom_hooks = [
    dict(type='StepSeedHook'),
    dict(type='SPUHook', per='forward', rows='reference', targets='attn.qkv'),
    dict(type='SPUHook', per='iteration', detach_prefix=True, targets='attn.proj'),
]
