# SR-LoRA on VTAB-1k with one image of each class and the five published lists, by every backbone: each config with each
# combination of the options. Paths are relative to this file. The published run_train_vtab_fewshot.sh has the first two
# groups of ViT-B/16; one backbone is --only '*vit-base*', one set --datasets vtab1k-eurosat.
configs = [
    f'../sr_lora/sr-lora_{backbone}_in21k-pre_1xb4-coslr-20e_vtab1k-{name}.py'
    for backbone in ('vit-base-p16', 'swin-base-w12', 'vit-large-p16')
    for name in (
        # Natural
        'caltech101', 'cifar', 'dtd', 'oxford-flowers102', 'oxford-iiit-pet', 'sun397', 'svhn',
        # Specialized
        'patch-camelyon', 'eurosat', 'resisc45', 'diabetic-retinopathy',
        # Structured
        'clevr-count', 'clevr-dist', 'dmlab', 'dsprites-loc', 'dsprites-ori', 'kitti', 'smallnorb-azi', 'smallnorb-ele',
    )
]
options = {'shot': [1], 'split': [1, 2, 3, 4, 5], 'randomness.seed': [666]}
