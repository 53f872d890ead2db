_base_ = '../fgvc_imagenet_224.py'
dataset_name = 'fgvc-cub'
train_dataloader = dict(dataset=dict(name='cub'))
val_dataloader = dict(dataset=dict(name='cub'))
test_dataloader = dict(dataset=dict(name='cub'))
