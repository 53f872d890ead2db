_base_ = '../vtab1k_resize_384.py'
dataset_name = 'vtab1k-smallnorb-ele'
train_dataloader = dict(dataset=dict(name='smallnorb_ele'))
test_dataloader = dict(dataset=dict(name='smallnorb_ele'))
