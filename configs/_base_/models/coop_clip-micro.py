# CoOp on clip-micro: the words of the prompt learn.
_base_ = './clip-micro_pretrained.py'
method = 'CoOp'
model = dict(type='CoOpCLIP', ctx_init='a picture of', templates=None)
