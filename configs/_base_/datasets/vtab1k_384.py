# A set of VTAB-1k with the published augmentation. A leaf gives its name. shot counts images, None is all 1000.
_base_ = './few-shot_384.py'
# The published code normalises with the numbers of CIFAR, whichever the checkpoint.
data_preprocessor = dict(mean=[125.3, 123.0, 113.9], std=[63.0, 62.1, 66.7], to_rgb=True)
train_dataloader = dict(
    dataset=dict(
        type='VTAB1k',
        data_root='data/vtab-1k',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='RandomResizedCrop', scale=384, backend='pillow', interpolation='bicubic'),
            dict(type='RandomFlip', prob=0.5, direction='horizontal'),
            dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4),
            dict(type='Cutout', shape=76, pad_val=128, prob=0.5),
            dict(type='PackInputs'),
        ],
    )
)
test_dataloader = dict(dataset=dict(type='VTAB1k', data_root='data/vtab-1k'))
test_evaluator = [dict(type='Accuracy', topk=(1,)), dict(type='BalancedAccuracy')]
