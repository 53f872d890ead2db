_base_ = '../vtab1k_imagenet_224.py'
dataset_name = 'vtab1k-caltech101'
train_dataloader = dict(dataset=dict(name='caltech101'))
val_dataloader = dict(dataset=dict(name='caltech101'))
test_dataloader = dict(dataset=dict(name='caltech101'))
