_base_ = '../vtab1k_half_224.py'
dataset_name = 'vtab1k-dsprites-loc'
train_dataloader = dict(dataset=dict(name='dsprites_loc'))
val_dataloader = dict(dataset=dict(name='dsprites_loc'))
test_dataloader = dict(dataset=dict(name='dsprites_loc'))
