# Episodes of the classes of mini-ImageNet for meta-training.
support_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(224, 224), backend='pillow', interpolation='bilinear'),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=1,
    num_workers=4,
    sampler=dict(type='ResumableSampler', shuffle=False),
    batch_sampler=dict(type='EpisodeSampler', n_way=5, n_shot=5, n_query=10, num_episodes=2000),
    dataset=dict(
        type='EpisodicDataset',
        dataset=dict(
            type='MetaSplit',
            name='mini-imagenet',
            split='meta_train',
            data_root='data/mini-imagenet',
            pipeline=support_pipeline,
        ),
    ),
)
