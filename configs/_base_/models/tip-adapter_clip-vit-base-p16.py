# Tip-Adapter on ViT-B/16, without training, with the prompts of the data set and 10 views of each image, as published.
# alpha and beta are one choice for all data sets; the published code searches them. It needs TrainingFreeLoop, which
# tip-adapter_training-free.py brings. The weights are a file of yours, as in clip-lora_vit-base-p16.py.
method = 'Tip-Adapter'
model = dict(
    _scope_='mmpretrain',
    type='TipAdapter',
    arch='ViT-B/16',
    finetune=False,
    alpha=1.0,
    beta=5.5,
    num_views=10,
    tokenizer=dict(type='CLIPTokenizer'),
    logit_scale=100.0,
    init_cfg=dict(type='Pretrained', checkpoint='weights/ViT-B-16.pt'),
)
