# P>M>F (CVPR 2022): all weights learn on episodes of real images of the classes for training, without a hub, at a
# hundredth of the rate of a meta-LoRA, which is a choice of ours.
_base_ = ['./meta-lora_clip-vit-base-p16_cub-5way.py', '../_base_/tuners/pmf.py']
clip = dict(frozen=False, init_cfg=dict(type='Pretrained', checkpoint='weights/ViT-B-16.pt'))
model = dict(backbone=dict(_delete_=True, type='CLIPImageEncoder', arch='ViT-B/16', **clip))
images = dict(type='MetaSplit', name='cub', split='meta_train', data_root='data/FGVC/CUB_200_2011')
pipeline = {{_base_.test_pipeline}}
train_dataloader = dict(dataset=dict(_delete_=True, type='EpisodicDataset', dataset=dict(**images, pipeline=pipeline)))
optim_wrapper = dict(optimizer=dict(type='Adam', lr=1e-5))
custom_hooks = [dict(type='StepSeedHook')]
