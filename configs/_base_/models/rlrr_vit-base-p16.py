# RLRR on ViT-B/16, from Google's weights of ImageNet-21k, with the head at zero as published. A leaf gives
# drop_path_rate, which the paper chooses for each data set, and the number of classes.
method = 'RLRR'
model = dict(
    _scope_='mmpretrain',
    type='ImageClassifier',
    backbone=dict(
        type='RLRRViT',
        arch='base',
        img_size=224,
        patch_size=16,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://storage.googleapis.com/vit_models/imagenet21k/ViT-B_16.npz',
        ),
    ),
    head=dict(
        type='LinearClsHead',
        in_channels=768,
        num_classes=1000,
        init_cfg=dict(type='Constant', layer='Linear', val=0, bias=0),
    ),
)
