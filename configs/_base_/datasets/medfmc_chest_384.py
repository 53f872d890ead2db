# MedFMC chest: chest X-rays, 19 findings; an image may show several.
_base_ = './medfmc_384.py'
dataset_name = 'medfmc-chest'
train_dataloader = dict(dataset=dict(type='Chest19', data_root='data/MedFMC/chest'))
test_dataloader = dict(dataset=dict(type='Chest19', data_root='data/MedFMC/chest'))
test_evaluator = [dict(type='MeanAveragePrecision'), dict(type='ROCAUC', mode='multilabel')]
