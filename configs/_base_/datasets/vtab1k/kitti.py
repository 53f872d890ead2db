_base_ = '../vtab1k_resize_384.py'
dataset_name = 'vtab1k-kitti'
train_dataloader = dict(dataset=dict(name='kitti'))
test_dataloader = dict(dataset=dict(name='kitti'))
