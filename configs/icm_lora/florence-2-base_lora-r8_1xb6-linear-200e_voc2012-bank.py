# The LoRAs after epochs 101 to 200, as published, as the bank of a class; ranked by valid, which is also tested on.
_base_ = './florence-2-base_lora-r8_1xb6-linear-200e_voc2012.py'
banks = dict(folder='work_dirs/banks/florence-2-base_r8', task='{class_name}', metric='detection/mAP_50_95', start=101)
custom_hooks = [dict(type='StepSeedHook'), dict(type='LoRABankHook', **banks)]
val_dataloader = {{_base_.test_dataloader}}
val_evaluator = dict(type='DetectionMAP')
val_cfg = dict()
train_cfg = dict(val_begin=101, val_interval=1)
