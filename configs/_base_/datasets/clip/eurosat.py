_base_ = '../clip_224.py'
dataset_name = 'eurosat'
train_dataloader = dict(dataset=dict(name='eurosat'))
val_dataloader = dict(dataset=dict(name='eurosat'))
test_dataloader = dict(dataset=dict(name='eurosat'))
