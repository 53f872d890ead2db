# RLRR on Swin-B with windows of 7. A leaf gives the pre-trained weights (init_cfg of the backbone) and the number of
# classes.
method = 'RLRR'
model = dict(
    _scope_='mmpretrain',
    type='ImageClassifier',
    backbone=dict(type='RLRRSwin', arch='base', img_size=224, drop_path_rate=0.1),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        in_channels=1024,
        num_classes=1000,
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02, bias=0),
    ),
)
