# CLIP-LoRA on ViT-B/32.
_base_ = './clip-lora_vit-base-p16.py'
model = dict(_scope_='mmpretrain', arch='ViT-B/32', init_cfg=dict(checkpoint='weights/ViT-B-32.pt'))
