# 2SFS on ViT-B/16: first the layer normalisations of both towers learn, then a linear classifier. It needs
# TwoStageHook, which clip_two-stage_runtime.py brings. The weights are a file of yours, as in
# clip-lora_vit-base-p16.py.
method = '2SFS'
model = dict(
    _scope_='mmpretrain',
    type='TwoStageCLIP',
    arch='ViT-B/16',
    tune='layer_norm',
    encoder='both',
    templates='a photo of a {}.',
    tokenizer=dict(type='CLIPTokenizer'),
    logit_scale='pretrained',
    init_cfg=dict(type='Pretrained', checkpoint='weights/ViT-B-16.pt'),
)
