_base_ = '../vtab1k_384.py'
dataset_name = 'vtab1k-cifar'
train_dataloader = dict(dataset=dict(name='cifar'))
test_dataloader = dict(dataset=dict(name='cifar'))
