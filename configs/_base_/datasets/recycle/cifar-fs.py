_base_ = '../recycle_224.py'
dataset_name = 'cifar-fs'
data_preprocessor = dict(mean=[129.3105, 124.2585, 112.404], std=[68.2125, 65.4075, 70.4055])
hub_folder = 'work_dirs/hubs/hub_clip-vit-base-p16_cifar-fs-5way'
pool_folder = 'work_dirs/pools/clip-vit-base-p16_cifar-fs-5way'
val_dataloader = dict(dataset=dict(name='cifar-fs', data_root='data/cifar-fs'))
test_dataloader = dict(dataset=dict(name='cifar-fs', data_root='data/cifar-fs'))
