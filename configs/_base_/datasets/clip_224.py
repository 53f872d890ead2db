# A set of CoOp at 224 px, prepared as CLIP does, drawn as CLIP-LoRA does.
# data_root: the folder that holds the folders of the sets.
# shot: images of each class, None for all. The seed of the draw is that of the run, randomness.seed.
# base_to_new=True trains on the first half of the classes and tests on the others; test_subset='base' on the first.
# tune=True validates on min(shot, 4) images of each class. CLIP-LoRA validates nothing: the last weights are tested.
data_root = 'data/coop'
shot = 16
base_to_new = False
train_subset = dict(base_to_new='base', otherwise='all')
test_subset = dict(base_to_new='new', otherwise='all')
tune = False
val_split = dict(tune='val', otherwise=None)
data_preprocessor = dict(
    mean=[122.7709383, 116.7460125, 104.09373615], std=[68.5005327, 66.6321579, 70.32316305], to_rgb=True
)

train_dataloader = dict(
    batch_size=32,
    num_workers=4,
    persistent_workers=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='ResumableSampler', shuffle=True),
    dataset=dict(
        type='CoOpDataset',
        data_root='{data_root}',
        split='train',
        n_shot='{shot}',
        sampling='clip_lora',
        seed='{seed}',
        subset='{train_subset}',
        pipeline=[
            dict(type='LoadImageFromFile', imdecode_backend='pillow', color_type='color_ignore_orientation'),
            dict(type='RandomResizedCrop', scale=224, backend='pillow', interpolation='bicubic'),
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
        type='CoOpDataset',
        data_root='{data_root}',
        split='test',
        subset='{test_subset}',
        pipeline=[
            dict(type='LoadImageFromFile', imdecode_backend='pillow', color_type='color_ignore_orientation'),
            dict(type='ResizeEdge', scale=224, edge='short', backend='pillow', interpolation='bicubic'),
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
        type='CoOpDataset',
        data_root='{data_root}',
        split='{val_split}',
        n_shot='{shot}',
        sampling='clip_lora',
        seed='{seed}',
        subset='{train_subset}',
        pipeline=test_dataloader['dataset']['pipeline'],
    ),
)
val_evaluator = dict(type='Accuracy', topk=(1,))
test_evaluator = val_evaluator
