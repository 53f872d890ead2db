# The published warm-up of 20 means epochs here and so lasts for the whole run: the learning rate peaks at 2.64e-4.
# mmengine's schedulers follow it to 1e-5.
# Classes without a positive test image count as 0 and as the class before.
_base_ = '../sr-lora_swin-base-w12_in21k-pre_1xb4-coslr-20e_medfmc-endo.py'
method = 'SR-LoRA (published code)'
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, end=20, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', T_max=20, end=20, eta_min_ratio=0.01, convert_to_iter_based=True),
]
test_evaluator = [
    dict(type='MeanAveragePrecision', undefined='zero'),
    dict(type='ROCAUC', mode='multilabel', undefined='reference'),
]
