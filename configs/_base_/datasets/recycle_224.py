# Episodes as LoRA-Recycle (CVPR 2025) has them: meta-training on the pool of a hub, validation and tests on real images
# of other classes. Features of all images are encoded once, and 600 episodes of 1 and of 5 shots are drawn from them.
# A leaf gives hub_folder and pool_folder, and the set.
data_preprocessor = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
shot = 1
train_pipeline = [
    dict(
        type='RandomChoice',
        transforms=[
            [dict(type='RandomFlip', prob=0.5, direction='horizontal')],
            [dict(type='RandomFlip', prob=0.5, direction='vertical')],
            [dict(type='ColorJitter', brightness=0.5, contrast=0.5, saturation=0.5, hue=0.5)],
        ],
    ),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(224, 224), backend='pillow', interpolation='bilinear'),
    dict(type='PackInputs'),
]
evaluator = [
    dict(type='EpisodeAccuracy', n_way=5, n_shot=n_shot, n_query=15, n_episodes=600, metric='euclidean', prefix=prefix)
    for n_shot, prefix in ((1, '1-shot'), (5, '5-shot'))
]
train_dataloader = dict(
    batch_size=1,
    num_workers=4,
    sampler=dict(type='ResumableSampler', shuffle=False),
    batch_sampler=dict(
        type='EpisodeSampler', n_way=5, n_shot='{shot}', n_query=15, num_episodes=2000, p_interpolate=1.0
    ),
    dataset=dict(
        type='EpisodicDataset',
        dataset=dict(type='PoolImages', pool='{pool_folder}', mask_ratio=None, channels='bgr', pipeline=train_pipeline),
    ),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=4,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='MetaSplit', split='meta_val', pipeline=test_pipeline),
)
val_cfg = dict(type='EpisodeValLoop')
val_evaluator = evaluator
test_dataloader = dict(
    batch_size=64,
    num_workers=4,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='MetaSplit', split='meta_test', pipeline=test_pipeline),
)
test_cfg = dict(type='EpisodeTestLoop')
test_evaluator = evaluator
