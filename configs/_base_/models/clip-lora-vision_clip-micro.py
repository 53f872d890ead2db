# CLIP-LoRA on the vision tower of clip-micro.
_base_ = './clip-lora_clip-micro.py'
method = 'CLIP-LoRA, vision'
model = dict(encoder='vision')
