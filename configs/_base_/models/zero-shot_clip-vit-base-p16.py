# CLIP ViT-B/16 as it is, with the prompt of each data set, as its published zero-shot numbers. Nothing learns: its
# weights, a file of yours as in clip-lora_vit-base-p16.py, are what is tested.
method = 'zero-shot'
model = dict(
    _scope_='mmpretrain',
    type='LoRACLIP',
    arch='ViT-B/16',
    encoder='none',
    tokenizer=dict(type='CLIPTokenizer'),
    logit_scale=100.0,
    init_cfg=dict(type='Pretrained', checkpoint='weights/ViT-B-16.pt'),
)
