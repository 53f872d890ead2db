# Images in one folder per class, as image_folder_224.py, prepared as CLIP does. Folders are named after the classes.
_base_ = './image_folder_224.py'
data_preprocessor = dict(
    mean=[122.7709383, 116.7460125, 104.09373615], std=[68.5005327, 66.6321579, 70.32316305], to_rgb=True
)
val_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='ResizeEdge', scale=224, edge='short', backend='pillow', interpolation='bicubic'),
            dict(type='CenterCrop', crop_size=224),
            dict(type='PackInputs'),
        ]
    )
)
test_dataloader = val_dataloader
