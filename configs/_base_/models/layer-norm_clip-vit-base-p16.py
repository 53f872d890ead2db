# The layer normalisations of both towers of ViT-B/16 learn, as in the first stage of 2SFS. The weights are a file of
# yours, as in clip-lora_vit-base-p16.py.
method = 'LayerNorm'
model = dict(
    _scope_='mmpretrain',
    type='LayerNormCLIP',
    arch='ViT-B/16',
    encoder='both',
    templates='a photo of a {}.',
    tokenizer=dict(type='CLIPTokenizer'),
    logit_scale='pretrained',
    init_cfg=dict(type='Pretrained', checkpoint='weights/ViT-B-16.pt'),
)
