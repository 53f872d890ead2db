_base_ = '../vtab1k_half_224.py'
dataset_name = 'vtab1k-dsprites-ori'
train_dataloader = dict(dataset=dict(name='dsprites_ori'))
val_dataloader = dict(dataset=dict(name='dsprites_ori'))
test_dataloader = dict(dataset=dict(name='dsprites_ori'))
