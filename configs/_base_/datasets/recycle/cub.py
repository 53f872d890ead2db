_base_ = '../recycle_224.py'
dataset_name = 'cub'
hub_folder = 'work_dirs/hubs/hub_clip-vit-base-p16_cub-5way'
pool_folder = 'work_dirs/pools/clip-vit-base-p16_cub-5way'
val_dataloader = dict(dataset=dict(name='cub', data_root='data/FGVC/CUB_200_2011'))
test_dataloader = dict(dataset=dict(name='cub', data_root='data/FGVC/CUB_200_2011'))
