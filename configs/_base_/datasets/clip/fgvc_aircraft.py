_base_ = '../clip_224.py'
dataset_name = 'fgvc_aircraft'
train_dataloader = dict(dataset=dict(name='fgvc_aircraft'))
val_dataloader = dict(dataset=dict(name='fgvc_aircraft'))
test_dataloader = dict(dataset=dict(name='fgvc_aircraft'))
