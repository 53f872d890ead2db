_base_ = '../vtab1k_384.py'
dataset_name = 'vtab1k-dtd'
train_dataloader = dict(dataset=dict(name='dtd'))
test_dataloader = dict(dataset=dict(name='dtd'))
