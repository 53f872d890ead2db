# VPT-deep on ViT-B/16. The paper chooses the number of prompts for each data set from 1, 5, 10, 50, 100 and 200; 50
# here, the nearest to its mean count of parameters.
_base_ = './linear_vit-base-p16.py'
method = 'VPT-deep'
model = dict(_scope_='mmpretrain', backbone=dict(kind='VPT', adapter_cfg=dict(num_tokens=50, deep=True, dropout=0.1)))
