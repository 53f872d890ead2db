# miniImageNet: a folder of images for each class, named by its WordNet id.
data_preprocessor = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(224, 224), backend='pillow', interpolation='bilinear'),
    dict(type='PackInputs'),
]
source = dict(
    name='mini-imagenet',
    dataset=dict(type='CustomDataset', data_root='data/mini-imagenet', pipeline=pipeline),
    classes='lora_recycle/mini-imagenet.json:meta_train',
)
hub_sources = [source]
