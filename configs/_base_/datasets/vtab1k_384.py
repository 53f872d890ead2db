# A set of VTAB-1k with the published augmentation. A leaf gives its name.
# shot: images of each class to train on, None for all 1000; split: which of the five few-shot lists, 1 to 5.
shot = 1
split = 1

# The published code normalises with the numbers of CIFAR, whichever the checkpoint.
data_preprocessor = dict(mean=[125.3, 123.0, 113.9], std=[63.0, 62.1, 66.7], to_rgb=True)

train_dataloader = dict(
    batch_size=4,
    num_workers=4,
    persistent_workers=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='ResumableSampler', shuffle=True),
    dataset=dict(
        type='VTAB1k',
        data_root='data/vtab-1k',
        split='train',
        n_shot='{shot}',
        exp='{split}',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='RandomResizedCrop', scale=384, backend='pillow', interpolation='bicubic'),
            dict(type='RandomFlip', prob=0.5, direction='horizontal'),
            dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4),
            dict(type='Cutout', shape=76, pad_val=128, prob=0.5),
            dict(type='PackInputs'),
        ],
    ),
)
# No validation: the weights of the last epoch are tested. The published code selects the epoch on the test images.
# configs/sr_lora/README.md shows how to select it with split='val'.
test_dataloader = dict(
    batch_size=32,
    num_workers=4,
    persistent_workers=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='VTAB1k',
        data_root='data/vtab-1k',
        split='test',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(384, 384), backend='pillow', interpolation='bicubic'),
            dict(type='PackInputs'),
        ],
    ),
)
test_evaluator = [dict(type='Accuracy', topk=(1,)), dict(type='BalancedAccuracy')]
