_base_ = '../vtab1k_half_224.py'
dataset_name = 'vtab1k-dtd'
train_dataloader = dict(dataset=dict(name='dtd'))
val_dataloader = dict(dataset=dict(name='dtd'))
test_dataloader = dict(dataset=dict(name='dtd'))
