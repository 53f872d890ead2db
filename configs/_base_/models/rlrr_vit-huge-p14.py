# RLRR on ViT-H/14.
_base_ = './rlrr_vit-base-p16.py'
model = dict(
    _scope_='mmpretrain',
    backbone=dict(
        arch='huge',
        patch_size=14,
        init_cfg=dict(checkpoint='https://storage.googleapis.com/vit_models/imagenet21k/ViT-H_14.npz'),
    ),
    head=dict(in_channels=1280),
)
