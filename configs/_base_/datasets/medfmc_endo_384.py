# MedFMC endo: endoscopy, 4 lesions; an image may show several.
_base_ = './medfmc_384.py'
dataset_name = 'medfmc-endo'
train_dataloader = dict(dataset=dict(type='Endoscopy', data_root='data/MedFMC/endo'))
test_dataloader = dict(dataset=dict(type='Endoscopy', data_root='data/MedFMC/endo'))
# No test image shows a tumor. Such a class has no value; the mean leaves it out and says so, published means count it.
test_evaluator = [dict(type='MeanAveragePrecision'), dict(type='ROCAUC', mode='multilabel')]
