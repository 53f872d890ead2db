# Only for tests, of the weights as they are: tools/test.py takes mmlora/assets/vit-micro_glyphs.safetensors.
_base_ = './meta-lora_vit-micro_glyphs-5way.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='VisionTransformer',
        arch=dict(embed_dims=96, num_layers=4, num_heads=3, feedforward_channels=288),
        img_size=32,
        patch_size=4,
        patch_cfg=dict(kernel_size=8, padding=2),
    )
)
