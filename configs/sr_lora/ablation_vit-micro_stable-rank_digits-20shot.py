_base_ = './ablation_vit-micro_digits-20shot.py'
model = dict(backbone=dict(lora_ranks='stable_rank'))
