data_preprocessor = dict(mean=[54, 54, 54], std=[72, 72, 72], num_classes=1138)

train_dataloader = dict(
    batch_size=64,
    num_workers=1,
    persistent_workers=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='ResumableSampler', shuffle=True),
    dataset=dict(type='Glyphs', split='train', samples_per_class=20, pipeline=[dict(type='PackInputs')]),
)
