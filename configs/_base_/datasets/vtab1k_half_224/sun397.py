_base_ = '../vtab1k_half_224.py'
dataset_name = 'vtab1k-sun397'
train_dataloader = dict(dataset=dict(name='sun397'))
val_dataloader = dict(dataset=dict(name='sun397'))
test_dataloader = dict(dataset=dict(name='sun397'))
