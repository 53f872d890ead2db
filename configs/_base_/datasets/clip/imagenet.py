_base_ = '../clip_224.py'
dataset_name = 'imagenet'
train_dataloader = dict(dataset=dict(name='imagenet'))
val_dataloader = dict(dataset=dict(name='imagenet'))
test_dataloader = dict(dataset=dict(name='imagenet'))
