_base_ = '../clip_224.py'
dataset_name = 'sun397'
train_dataloader = dict(dataset=dict(name='sun397'))
val_dataloader = dict(dataset=dict(name='sun397'))
test_dataloader = dict(dataset=dict(name='sun397'))
