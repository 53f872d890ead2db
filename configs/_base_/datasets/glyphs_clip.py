# Few-shot tasks for clip-micro: letters that its pre-training has not seen. A leaf says what was held out.
# shot: images of each letter. The seed of the draw is that of the run, randomness.seed.
# base_to_new=True trains on the first half of the letters and tests on the others; test_subset='base' on the first.
# tune=True takes the letters that are for choosing hyper-parameters. The last weights are tested.
shot = 16
base_to_new = False
train_subset = dict(base_to_new='base', otherwise='all')
test_subset = dict(base_to_new='new', otherwise='all')
tune = False
letters = dict(tune='val', otherwise='test')
data_preprocessor = dict(mean=[54, 54, 54], std=[72, 72, 72])

train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='ResumableInfiniteSampler', shuffle=True),
    dataset=dict(
        type='FewShotGlyphs',
        split='train',
        n_shot='{shot}',
        seed='{seed}',
        letters='{letters}',
        subset='{train_subset}',
        pipeline=[dict(type='PackInputs')],
    ),
)
val_dataloader = None
val_evaluator = None
test_dataloader = dict(
    batch_size=256,
    num_workers=0,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='FewShotGlyphs',
        split='test',
        letters='{letters}',
        subset='{test_subset}',
        pipeline=[dict(type='PackInputs')],
    ),
)
test_evaluator = dict(type='Accuracy', topk=(1,))
