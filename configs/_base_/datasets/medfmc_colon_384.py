# MedFMC colon: colon pathology, tumour or not.
_base_ = './medfmc_384.py'
dataset_name = 'medfmc-colon'
train_dataloader = dict(dataset=dict(type='Colon', data_root='data/MedFMC/colon'))
test_dataloader = dict(dataset=dict(type='Colon', data_root='data/MedFMC/colon'))
test_evaluator = [dict(type='Accuracy', topk=(1,)), dict(type='ROCAUC', mode='multiclass')]
