# A set of VTAB-1k at 224 px: the whole image is resized, nothing is cut off or changed. A base over this one gives mean
# and std, a base of a set its name.
# tune=True trains on 800 images and validates on the other 200, to choose hyper-parameters. Otherwise all 1000 are
# trained on and nothing is chosen: there is no validation, and the last epoch is tested.
tune = False
train_split = dict(tune='train800', otherwise='train800val200')
val_split = dict(tune='val200', otherwise=None)

train_dataloader = dict(
    batch_size=32,
    num_workers=4,
    persistent_workers=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='ResumableSampler', shuffle=True),
    dataset=dict(
        type='VTAB1k',
        data_root='data/vtab-1k',
        split='{train_split}',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(224, 224), backend='pillow', interpolation='bicubic'),
            dict(type='PackInputs'),
        ],
    ),
)
val_dataloader = dict(
    batch_size=256,
    num_workers=4,
    persistent_workers=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='VTAB1k',
        data_root='data/vtab-1k',
        split='{val_split}',
        pipeline=train_dataloader['dataset']['pipeline'],
    ),
)
test_dataloader = dict(
    batch_size=256,
    num_workers=4,
    persistent_workers=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='VTAB1k',
        data_root='data/vtab-1k',
        split='test',
        pipeline=train_dataloader['dataset']['pipeline'],
    ),
)
val_evaluator = [dict(type='Accuracy', topk=(1,)), dict(type='BalancedAccuracy')]
test_evaluator = val_evaluator
