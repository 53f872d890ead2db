_base_ = '../fgvc_imagenet_224.py'
dataset_name = 'fgvc-flowers'
train_dataloader = dict(dataset=dict(name='flowers'))
val_dataloader = dict(dataset=dict(name='flowers'))
test_dataloader = dict(dataset=dict(name='flowers'))
