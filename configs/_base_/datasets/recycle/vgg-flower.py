_base_ = '../recycle_224.py'
dataset_name = 'vgg-flower'
hub_folder = 'work_dirs/hubs/hub_clip-vit-base-p16_vgg-flower-5way'
pool_folder = 'work_dirs/pools/clip-vit-base-p16_vgg-flower-5way'
val_dataloader = dict(dataset=dict(name='vgg-flower', data_root='data/FGVC/OxfordFlower'))
test_dataloader = dict(dataset=dict(name='vgg-flower', data_root='data/FGVC/OxfordFlower'))
