# Boxes of one class of VOC 2012 as text. Each of data/voc2012/train and data/voc2012/valid has its images and
# annotations.jsonl of all classes; class_name chooses the task. As published, valid is tested on.
dataset_name = 'voc2012'
data_root = 'data/voc2012'
class_name = 'dog'
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(768, 768), backend='pillow', interpolation='bicubic'),
    dict(type='PackInputs', algorithm_keys=['prefix', 'suffix', 'gt_names', 'gt_bins']),
]
train_dataloader = dict(
    batch_size=6,
    num_workers=4,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='FlorenceDetection',
        data_root='{data_root}',
        ann_file='train/annotations.jsonl',
        classes=['{class_name}'],
        pipeline=pipeline,
    ),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=4,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='FlorenceDetection',
        data_root='{data_root}',
        ann_file='valid/annotations.jsonl',
        classes=['{class_name}'],
        pipeline=pipeline,
    ),
)
test_cfg = dict()
test_evaluator = dict(type='DetectionMAP')
