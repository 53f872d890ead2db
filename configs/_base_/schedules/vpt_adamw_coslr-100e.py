# VPT's schedule for full fine-tuning. VPT chooses lr from {1e-4, 5e-4, 1e-3, 5e-3} * batch_size / 256 for each data
# set; this is 5e-4 * 64 / 256, which is our choice. Its code has a weight decay of 0.01, whatever its options say.
_base_ = './noah_adamw_coslr-100e.py'
optim_wrapper = dict(optimizer=dict(lr=1.25e-4, weight_decay=1e-2))
