# What the three data sets of MedFMC share. Images go through the published pipeline.
# shot: patients (colon: slides) of each class to train on, 1, 5 or 10, None for all; split: which of the five lists.
shot = 1
split = 1

data_preprocessor = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)

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
# split='val'.
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
