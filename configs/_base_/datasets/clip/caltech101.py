_base_ = '../clip_224.py'
dataset_name = 'caltech101'
train_dataloader = dict(dataset=dict(name='caltech101'))
val_dataloader = dict(dataset=dict(name='caltech101'))
test_dataloader = dict(dataset=dict(name='caltech101'))
