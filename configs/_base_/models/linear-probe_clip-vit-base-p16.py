# A linear classifier on the image features of CLIP ViT-B/16. It begins at zero; init='text' begins as zero-shot CLIP
# with the prompt of the data set. The weights are a file of yours, as in clip-lora_vit-base-p16.py.
method = 'Linear probe'
model = dict(
    _scope_='mmpretrain',
    type='CLIPLinearProbe',
    arch='ViT-B/16',
    init='zero',
    tokenizer=dict(type='CLIPTokenizer'),
    logit_scale=100.0,
    init_cfg=dict(type='Pretrained', checkpoint='weights/ViT-B-16.pt'),
)
