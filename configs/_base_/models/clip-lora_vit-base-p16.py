# CLIP-LoRA on ViT-B/16, as published. A leaf gives the weights (init_cfg: those of OpenAI, open_clip or Hugging Face)
# and lists ClassNamesHook, or gives the classes. Both come with clip_runtime.py and a data set that names its classes.
method = 'CLIP-LoRA'
model = dict(
    _scope_='mmpretrain',
    type='LoRACLIP',
    arch='ViT-B/16',
    encoder='both',
    params='qkv',
    layers='all',
    lora_rank=2,
    lora_alpha=1,
    lora_scaling='alpha/sqrt(r)',
    lora_dropout=0.25,
    templates='a photo of a {}.',
    tokenizer=dict(type='CLIPTokenizer'),
    logit_scale=100.0,
)
