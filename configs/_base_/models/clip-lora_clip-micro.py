# CLIP-LoRA on clip-micro, in both towers.
_base_ = './clip-micro_pretrained.py'
method = 'CLIP-LoRA'
model = dict(
    encoder='both',
    params='qkv',
    layers='all',
    lora_rank=2,
    lora_alpha=1,
    lora_scaling='alpha/sqrt(r)',
    lora_dropout=0.25,
)
