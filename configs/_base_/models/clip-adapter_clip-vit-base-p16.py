# CLIP-Adapter on ViT-B/16, with the bottleneck, the ratio and the prompts of the published code: those of the data set,
# 'a photo of a {}.' where it has none. The weights are a file of yours, as in clip-lora_vit-base-p16.py.
method = 'CLIP-Adapter'
model = dict(
    _scope_='mmpretrain',
    type='CLIPAdapter',
    arch='ViT-B/16',
    ratio=0.2,
    text_ratio=None,
    reduction=4,
    tokenizer=dict(type='CLIPTokenizer'),
    logit_scale='pretrained',
    init_cfg=dict(type='Pretrained', checkpoint='weights/ViT-B-16.pt'),
)
