_base_ = '../vtab1k_384.py'
dataset_name = 'vtab1k-svhn'
train_dataloader = dict(dataset=dict(name='svhn'))
test_dataloader = dict(dataset=dict(name='svhn'))
