# CLIP-LoRA on the text tower of clip-micro.
_base_ = './clip-lora_clip-micro.py'
method = 'CLIP-LoRA, text'
model = dict(encoder='text')
