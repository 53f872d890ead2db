# A linear probe on the image features of clip-micro.
_base_ = './clip-micro_pretrained.py'
method = 'Linear probe'
model = dict(type='CLIPLinearProbe')
