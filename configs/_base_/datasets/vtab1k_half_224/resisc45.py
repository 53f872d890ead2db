_base_ = '../vtab1k_half_224.py'
dataset_name = 'vtab1k-resisc45'
train_dataloader = dict(dataset=dict(name='resisc45'))
val_dataloader = dict(dataset=dict(name='resisc45'))
test_dataloader = dict(dataset=dict(name='resisc45'))
