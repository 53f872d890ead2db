# Pixels in -1..1, as Google's ViTs saw them in pre-training: the convention of SSF and RLRR.
_base_ = './vtab1k_224.py'
data_preprocessor = dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5], to_rgb=True)
