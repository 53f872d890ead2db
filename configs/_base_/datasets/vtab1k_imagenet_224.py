# Mean and std of ImageNet, whichever the checkpoint: the convention of VPT and NOAH, whose batches are of 64 images.
_base_ = './vtab1k_224.py'
data_preprocessor = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
train_dataloader = dict(batch_size=64)
