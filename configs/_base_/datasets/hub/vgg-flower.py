# VGG-Flower (Oxford Flowers 102): all images of the classes for meta-training, in the layouts of the FGVC sets.
data_preprocessor = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(224, 224), backend='pillow', interpolation='bilinear'),
    dict(type='PackInputs'),
]
source = dict(
    name='vgg-flower',
    dataset=[
        dict(type='FGVC', name='flowers', data_root='data/FGVC', split=split, pipeline=pipeline)
        for split in ('trainval', 'test')
    ],
    classes='lora_recycle/vgg-flower.json:meta_train',
)
hub_sources = [source]
