_base_ = '../clip_224.py'
dataset_name = 'dtd'
train_dataloader = dict(dataset=dict(name='dtd'))
val_dataloader = dict(dataset=dict(name='dtd'))
test_dataloader = dict(dataset=dict(name='dtd'))
