_base_ = '../clip_224.py'
dataset_name = 'oxford_flowers'
train_dataloader = dict(dataset=dict(name='oxford_flowers'))
val_dataloader = dict(dataset=dict(name='oxford_flowers'))
test_dataloader = dict(dataset=dict(name='oxford_flowers'))
