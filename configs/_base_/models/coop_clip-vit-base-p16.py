# CoOp on ViT-B/16, as published: 16 vectors before the name, shared by all classes. The weights are a file of yours,
# as in clip-lora_vit-base-p16.py. class_specific=True gives each class its own, ctx_init='a photo of a' starts from
# words.
method = 'CoOp'
model = dict(
    _scope_='mmpretrain',
    type='CoOpCLIP',
    arch='ViT-B/16',
    n_ctx=16,
    ctx_init=None,
    position='end',
    class_specific=False,
    tokenizer=dict(type='CLIPTokenizer'),
    logit_scale='pretrained',
    init_cfg=dict(type='Pretrained', checkpoint='weights/ViT-B-16.pt'),
)
