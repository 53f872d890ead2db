_base_ = '../fgvc_imagenet_224.py'
dataset_name = 'fgvc-dogs'
train_dataloader = dict(dataset=dict(name='dogs'))
val_dataloader = dict(dataset=dict(name='dogs'))
test_dataloader = dict(dataset=dict(name='dogs'))
