# A set of FGVC at 224 px as RLRR has it: the image becomes a square of 256 px, of which 224 are cut out; pixels lie in
# -1..1.
# tune=True trains on train and validates on val, to choose hyper-parameters. Otherwise train and val are trained on and
# nothing is chosen: there is no validation, and the last epoch is tested.
tune = False
train_split = dict(tune='train', otherwise='trainval')
val_split = dict(tune='val', otherwise=None)
data_preprocessor = dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5], to_rgb=True)

train_dataloader = dict(
    batch_size=32,
    num_workers=4,
    persistent_workers=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='ResumableSampler', shuffle=True),
    dataset=dict(
        type='FGVC',
        data_root='data/FGVC',
        split='{train_split}',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(256, 256), backend='pillow', interpolation='bilinear'),
            dict(type='RandomCrop', crop_size=224),
            dict(type='RandomFlip', prob=0.5, direction='horizontal'),
            dict(type='PackInputs'),
        ],
    ),
)
test_dataloader = dict(
    batch_size=256,
    num_workers=4,
    persistent_workers=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='FGVC',
        data_root='data/FGVC',
        split='test',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(256, 256), backend='pillow', interpolation='bilinear'),
            dict(type='CenterCrop', crop_size=224),
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
        type='FGVC',
        data_root='data/FGVC',
        split='{val_split}',
        pipeline=test_dataloader['dataset']['pipeline'],
    ),
)
val_evaluator = [dict(type='Accuracy', topk=(1,)), dict(type='BalancedAccuracy')]
test_evaluator = val_evaluator
