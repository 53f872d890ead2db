# CLIP-LoRA on ViT-B/16, as published. The weights are a file of yours: of OpenAI, open_clip or Hugging Face. Classes
# come from a data set that names them, with ClassNamesHook of clip_runtime.py, or from classes=[...].
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
    init_cfg=dict(type='Pretrained', checkpoint='weights/ViT-B-16.pt'),
)
