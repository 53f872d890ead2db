# Florence-2-base with LoRA as ICM-LoRA (IJCAI 2025) tunes it. The weights are those of Microsoft in the layout of
# transformers' own classes. Images are normalised as Florence-2 was trained.
method = 'LoRA'
data_preprocessor = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
model = dict(
    _scope_='mmpretrain',
    type='FlorenceDetector',
    pretrained='florence-community/Florence-2-base-ft',
    lora_rank=8,
    lora_alpha=8,
    lora_scaling='alpha/sqrt(r)',
    lora_dropout=0.05,
    lora_targets=['q_proj', 'k_proj', 'v_proj', 'fc2', 'lm_head'],
    num_beams=3,
    max_new_tokens=1024,
)
