# Meta-training on the quarter of the patches of each image that its LoRA attends to.
_base_ = './meta-lora_vit-micro_glyphs-5way.py'
model = dict(sparse=True)
train_dataloader = dict(dataset=dict(dataset=dict(mask_ratio=0.75)))
