_base_ = './vit-micro_sr-lora_digits-5shot.py'
train_dataloader = dict(dataset=dict(n_shot=20))
