# For the structured tasks, where a crop or a flip changes what the label says: a count, a distance, a place, an angle.
_base_ = './vtab1k_384.py'
train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(384, 384), backend='pillow', interpolation='bicubic'),
            dict(type='PackInputs'),
        ]
    )
)
