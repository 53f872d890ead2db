_base_ = '../vtab1k_half_224.py'
dataset_name = 'vtab1k-cifar'
train_dataloader = dict(dataset=dict(name='cifar'))
val_dataloader = dict(dataset=dict(name='cifar'))
test_dataloader = dict(dataset=dict(name='cifar'))
