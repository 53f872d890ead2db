_base_ = '../vtab1k_resize_384.py'
dataset_name = 'vtab1k-smallnorb-azi'
train_dataloader = dict(dataset=dict(name='smallnorb_azi'))
test_dataloader = dict(dataset=dict(name='smallnorb_azi'))
