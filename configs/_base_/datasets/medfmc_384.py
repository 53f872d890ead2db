# What the three data sets of MedFMC share. shot counts patients (colon: slides), and there are lists for 1, 5 and 10.
_base_ = './few-shot_384.py'
data_preprocessor = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
