_base_ = '../vtab1k_half_224.py'
dataset_name = 'vtab1k-smallnorb-ele'
train_dataloader = dict(dataset=dict(name='smallnorb_ele'))
val_dataloader = dict(dataset=dict(name='smallnorb_ele'))
test_dataloader = dict(dataset=dict(name='smallnorb_ele'))
