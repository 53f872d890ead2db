_base_ = '../vtab1k_half_flip_224.py'
dataset_name = 'vtab1k-kitti'
train_dataloader = dict(dataset=dict(name='kitti'))
val_dataloader = dict(dataset=dict(name='kitti'))
test_dataloader = dict(dataset=dict(name='kitti'))
