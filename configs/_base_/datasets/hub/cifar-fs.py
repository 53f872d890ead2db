# CIFAR-FS: the images of CIFAR-100 in a folder for each class, named as its fine labels.
data_preprocessor = dict(mean=[129.3105, 124.2585, 112.404], std=[68.2125, 65.4075, 70.4055], to_rgb=True)
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(224, 224), backend='pillow', interpolation='bilinear'),
    dict(type='PackInputs'),
]
source = dict(
    name='cifar-fs',
    dataset=dict(type='CustomDataset', data_root='data/cifar-fs', pipeline=pipeline),
    classes='lora_recycle/cifar-fs.json:meta_train',
)
hub_sources = [source]
