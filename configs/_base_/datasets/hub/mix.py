# All four sets, prepared alike; the numbers of the classes run on from set to set. Each task has classes of one set.
data_preprocessor = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(224, 224), backend='pillow', interpolation='bilinear'),
    dict(type='PackInputs'),
]
cifar_fs = dict(
    name='cifar-fs',
    dataset=dict(type='CustomDataset', data_root='data/cifar-fs', pipeline=pipeline),
    classes='lora_recycle/cifar-fs.json:meta_train',
)
mini_imagenet = dict(
    name='mini-imagenet',
    dataset=dict(type='CustomDataset', data_root='data/mini-imagenet', pipeline=pipeline),
    classes='lora_recycle/mini-imagenet.json:meta_train',
)
cub = dict(
    name='cub',
    dataset=[
        dict(type='FGVC', name='cub', data_root='data/FGVC', split=split, pipeline=pipeline)
        for split in ('trainval', 'test')
    ],
    classes='lora_recycle/cub.json:meta_train',
)
vgg_flower = dict(
    name='vgg-flower',
    dataset=[
        dict(type='FGVC', name='flowers', data_root='data/FGVC', split=split, pipeline=pipeline)
        for split in ('trainval', 'test')
    ],
    classes='lora_recycle/vgg-flower.json:meta_train',
)
hub_sources = [cifar_fs, mini_imagenet, cub, vgg_flower]
