# What the few-shot data sets at 384 px share. A base of one gives its type and the mean and std of its images.
# shot: how many of each class to train on, None for all; split: which of the five few-shot lists, 1 to 5.
shot = 1
split = 1

train_dataloader = dict(
    batch_size=4,
    num_workers=4,
    persistent_workers=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='ResumableSampler', shuffle=True),
    dataset=dict(
        split='train',
        n_shot='{shot}',
        exp='{split}',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='RandomResizedCrop', scale=384, backend='pillow', interpolation='bicubic'),
            dict(type='RandomFlip', prob=0.5, direction='horizontal'),
            dict(type='PackInputs'),
        ],
    ),
)
# No validation: the weights of the last epoch are tested. configs/sr_lora/README.md shows how to choose an epoch with
# split='val'; the published code chooses it on the test images.
test_dataloader = dict(
    batch_size=32,
    num_workers=4,
    persistent_workers=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        split='test',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(384, 384), backend='pillow', interpolation='bicubic'),
            dict(type='PackInputs'),
        ],
    ),
)
