# Other images of ImageNet's classes, to test on alone: such a config has neither training data nor a schedule.
# Compared are the 200 classes that it has, as in CoOp; test_dataloader.dataset.label_space=imagenet compares all 1000.
_base_ = '../clip_224.py'
dataset_name = 'imagenet_r'
train_dataloader = None
val_dataloader = None
val_evaluator = None
test_dataloader = dict(dataset=dict(name='imagenet_r'))
test_cfg = dict()
