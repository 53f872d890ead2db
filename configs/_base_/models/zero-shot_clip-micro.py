# The plain clip-micro, for tests without training.
_base_ = './clip-micro_pretrained.py'
method = 'zero-shot'
model = dict(encoder='none')
