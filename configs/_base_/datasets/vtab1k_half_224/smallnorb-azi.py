_base_ = '../vtab1k_half_224.py'
dataset_name = 'vtab1k-smallnorb-azi'
train_dataloader = dict(dataset=dict(name='smallnorb_azi'))
val_dataloader = dict(dataset=dict(name='smallnorb_azi'))
test_dataloader = dict(dataset=dict(name='smallnorb_azi'))
