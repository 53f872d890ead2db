data_preprocessor = dict(mean=[54, 54, 54], std=[72, 72, 72], num_classes=10)

train_dataloader = dict(
    batch_size=32,
    num_workers=0,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='ResumableInfiniteSampler', shuffle=True),
    dataset=dict(
        type='Digits',
        split='train',
        n_shot=5,
        pipeline=[
            dict(type='RandomCrop', crop_size=32, padding=2),
            dict(type='Rotate', magnitude_level=10, magnitude_range=(0, 15), prob=0.8, pad_val=0),
            dict(type='Shear', magnitude_level=10, magnitude_range=(0, 0.2), prob=0.8, pad_val=0),
            dict(type='PackInputs'),
        ],
    ),
)
val_dataloader = dict(
    batch_size=200,
    num_workers=0,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='Digits', split='val', pipeline=[dict(type='PackInputs')]),
)
test_dataloader = dict(
    batch_size=200,
    num_workers=0,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='Digits', split='test', pipeline=[dict(type='PackInputs')]),
)
val_evaluator = dict(type='Accuracy', topk=(1,))
test_evaluator = val_evaluator
