_base_ = '../vtab1k_half_224.py'
dataset_name = 'vtab1k-eurosat'
train_dataloader = dict(dataset=dict(name='eurosat'))
val_dataloader = dict(dataset=dict(name='eurosat'))
test_dataloader = dict(dataset=dict(name='eurosat'))
