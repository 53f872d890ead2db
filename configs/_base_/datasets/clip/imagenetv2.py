# Other images of ImageNet's classes, to test on alone: such a config has neither training data nor a schedule.
_base_ = '../clip_224.py'
dataset_name = 'imagenetv2'
train_dataloader = None
val_dataloader = None
val_evaluator = None
test_dataloader = dict(dataset=dict(name='imagenetv2'))
test_cfg = dict()
