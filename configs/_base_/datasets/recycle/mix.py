# The hub of all four sets. What is chosen is chosen on their classes for validation, and tested on the four sets from
# other domains, all classes of which are for tests: here on all together, in the leaves one by one.
_base_ = '../recycle_224.py'
dataset_name = 'mix'
hub_folder = 'work_dirs/hubs/hub_clip-vit-base-p16_mix-5way'
pool_folder = 'work_dirs/pools/clip-vit-base-p16_mix-5way'
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='EpisodicDataset',
        dataset=[
            dict(type='MetaSplit', name=name, data_root=data_root, split='meta_val', pipeline={{_base_.test_pipeline}})
            for name, data_root in (
                ('cifar-fs', 'data/cifar-fs'),
                ('mini-imagenet', 'data/mini-imagenet'),
                ('cub', 'data/FGVC/CUB_200_2011'),
                ('vgg-flower', 'data/FGVC/OxfordFlower'),
            )
        ],
    )
)
test_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='EpisodicDataset',
        dataset=[
            dict(type='MetaSplit', name=name, data_root=data_root, split='all', pipeline={{_base_.test_pipeline}})
            for name, data_root in (
                ('chestx', 'data/chestx'),
                ('isic', 'data/isic'),
                ('eurosat', 'data/eurosat'),
                ('cropdiseases', 'data/cropdiseases'),
            )
        ],
    )
)
