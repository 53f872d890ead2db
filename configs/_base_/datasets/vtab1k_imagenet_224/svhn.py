_base_ = '../vtab1k_imagenet_224.py'
dataset_name = 'vtab1k-svhn'
train_dataloader = dict(dataset=dict(name='svhn'))
val_dataloader = dict(dataset=dict(name='svhn'))
test_dataloader = dict(dataset=dict(name='svhn'))
