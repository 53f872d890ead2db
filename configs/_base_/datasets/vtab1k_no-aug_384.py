# The published pipeline without augmentation: a random crop is left. For camelyon, eurosat and retinopathy.
_base_ = './vtab1k_384.py'
train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='RandomResizedCrop', scale=384, backend='pillow', interpolation='bicubic'),
            dict(type='PackInputs'),
        ]
    )
)
