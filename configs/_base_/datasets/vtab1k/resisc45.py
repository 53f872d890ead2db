_base_ = '../vtab1k_384.py'
dataset_name = 'vtab1k-resisc45'
train_dataloader = dict(dataset=dict(name='resisc45'))
test_dataloader = dict(dataset=dict(name='resisc45'))
