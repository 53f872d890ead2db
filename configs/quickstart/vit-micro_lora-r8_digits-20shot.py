_base_ = './vit-micro_lora-r8_digits-5shot.py'
train_dataloader = dict(dataset=dict(n_shot=20))
optim_wrapper = dict(optimizer=dict(lr=5e-3), paramwise_cfg=dict(custom_keys=dict(head=dict(lr_mult=1))))
