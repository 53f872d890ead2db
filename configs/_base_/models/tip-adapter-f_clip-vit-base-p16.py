# Tip-Adapter-F on ViT-B/16: the keys of the cache learn.
_base_ = './tip-adapter_clip-vit-base-p16.py'
method = 'Tip-Adapter-F'
model = dict(_scope_='mmpretrain', finetune=True)
