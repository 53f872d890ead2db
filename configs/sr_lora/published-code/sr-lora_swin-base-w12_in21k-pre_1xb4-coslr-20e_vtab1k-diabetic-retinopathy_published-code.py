# The published learning rate for this set is 0.5.
_base_ = '../sr-lora_swin-base-w12_in21k-pre_1xb4-coslr-20e_vtab1k-diabetic-retinopathy.py'
method = 'SR-LoRA (published code)'
optim_wrapper = dict(optimizer=dict(lr=0.5))
