_base_ = '../fgvc_imagenet_224.py'
dataset_name = 'fgvc-nabirds'
train_dataloader = dict(dataset=dict(name='nabirds'))
val_dataloader = dict(dataset=dict(name='nabirds'))
test_dataloader = dict(dataset=dict(name='nabirds'))
