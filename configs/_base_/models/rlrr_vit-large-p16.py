# RLRR on ViT-L/16.
_base_ = './rlrr_vit-base-p16.py'
model = dict(
    _scope_='mmpretrain',
    backbone=dict(
        arch='large',
        init_cfg=dict(checkpoint='https://storage.googleapis.com/vit_models/imagenet21k/ViT-L_16.npz'),
    ),
    head=dict(in_channels=1024),
)
