_base_ = '../recycle_224.py'
dataset_name = 'mini-imagenet'
hub_folder = 'work_dirs/hubs/hub_clip-vit-base-p16_mini-imagenet-5way'
pool_folder = 'work_dirs/pools/clip-vit-base-p16_mini-imagenet-5way'
val_dataloader = dict(dataset=dict(name='mini-imagenet', data_root='data/mini-imagenet'))
test_dataloader = dict(dataset=dict(name='mini-imagenet', data_root='data/mini-imagenet'))
