# VPT's schedule for what learns beside a frozen backbone: SGD, 10 epochs of warm-up, a cosine to 0. VPT chooses lr from
# {0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50} * batch_size / 256 and weight_decay from {0, 1e-4, 1e-3, 1e-2} for each
# data set; this lr is 1 * 64 / 256, and both are our choice.
_base_ = './noah_adamw_coslr-100e.py'
optim_wrapper = dict(_delete_=True, optimizer=dict(type='SGD', lr=0.25, momentum=0.9, weight_decay=1e-4))
