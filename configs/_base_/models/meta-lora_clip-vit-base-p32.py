# As meta-lora_clip-vit-base-p16.py, on CLIP ViT-B/32.
_base_ = './meta-lora_clip-vit-base-p16.py'
model = dict(
    _scope_='mmpretrain',
    backbone=dict(
        backbone=dict(arch='ViT-B/32', init_cfg=dict(type='Pretrained', checkpoint='weights/ViT-B-32.pt')),
    ),
)
