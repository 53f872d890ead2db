# SR-LoRA on ViT-L/16, VTAB-1k with one image per class: each config with each combination of the options. Paths are
# relative to this file. The published seed is 666.
configs = [
    # Natural
    '../sr_lora/sr-lora_vit-large-p16_in21k-pre_1xb4-coslr-20e_vtab1k-caltech101.py',
    '../sr_lora/sr-lora_vit-large-p16_in21k-pre_1xb4-coslr-20e_vtab1k-cifar.py',
    '../sr_lora/sr-lora_vit-large-p16_in21k-pre_1xb4-coslr-20e_vtab1k-dtd.py',
    '../sr_lora/sr-lora_vit-large-p16_in21k-pre_1xb4-coslr-20e_vtab1k-oxford-flowers102.py',
    '../sr_lora/sr-lora_vit-large-p16_in21k-pre_1xb4-coslr-20e_vtab1k-oxford-iiit-pet.py',
    '../sr_lora/sr-lora_vit-large-p16_in21k-pre_1xb4-coslr-20e_vtab1k-sun397.py',
    '../sr_lora/sr-lora_vit-large-p16_in21k-pre_1xb4-coslr-20e_vtab1k-svhn.py',
    # Specialized
    '../sr_lora/sr-lora_vit-large-p16_in21k-pre_1xb4-coslr-20e_vtab1k-patch-camelyon.py',
    '../sr_lora/sr-lora_vit-large-p16_in21k-pre_1xb4-coslr-20e_vtab1k-eurosat.py',
    '../sr_lora/sr-lora_vit-large-p16_in21k-pre_1xb4-coslr-20e_vtab1k-resisc45.py',
    '../sr_lora/sr-lora_vit-large-p16_in21k-pre_1xb4-coslr-20e_vtab1k-diabetic-retinopathy.py',
    # Structured
    '../sr_lora/sr-lora_vit-large-p16_in21k-pre_1xb4-coslr-20e_vtab1k-clevr-count.py',
    '../sr_lora/sr-lora_vit-large-p16_in21k-pre_1xb4-coslr-20e_vtab1k-clevr-dist.py',
    '../sr_lora/sr-lora_vit-large-p16_in21k-pre_1xb4-coslr-20e_vtab1k-dmlab.py',
    '../sr_lora/sr-lora_vit-large-p16_in21k-pre_1xb4-coslr-20e_vtab1k-dsprites-loc.py',
    '../sr_lora/sr-lora_vit-large-p16_in21k-pre_1xb4-coslr-20e_vtab1k-dsprites-ori.py',
    '../sr_lora/sr-lora_vit-large-p16_in21k-pre_1xb4-coslr-20e_vtab1k-kitti.py',
    '../sr_lora/sr-lora_vit-large-p16_in21k-pre_1xb4-coslr-20e_vtab1k-smallnorb-azi.py',
    '../sr_lora/sr-lora_vit-large-p16_in21k-pre_1xb4-coslr-20e_vtab1k-smallnorb-ele.py',
]
options = {'shot': [1], 'split': [1, 2, 3, 4, 5], 'randomness.seed': [666]}
