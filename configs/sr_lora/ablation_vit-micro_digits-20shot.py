# What the three ablations share: the same number of learned parameters, the same scaling of the change, the same images
# and schedule. tools/rank_ablation.py replaces the budget and the learning rate, and repeats them over seeds.
_base_ = '../quickstart/vit-micro_digits-20shot.py'
model = dict(
    backbone=dict(type='VitSR_LoRA', rank_budget=dict(params=18432), lora_scaling='constant', lora_alpha=1.0))
optim_wrapper = dict(optimizer=dict(lr=3e-3), paramwise_cfg=dict(custom_keys=dict(head=dict(lr_mult=1))))
