# CLIP-LoRA on ViT-L/14. Published numbers may come from code that left the last three blocks of the vision tower out:
# layers=dict(_delete_=True, vision=list(range(21)), text='all').
_base_ = './clip-lora_vit-base-p16.py'
model = dict(_scope_='mmpretrain', arch='ViT-L/14', init_cfg=dict(checkpoint='weights/ViT-L-14.pt'))
