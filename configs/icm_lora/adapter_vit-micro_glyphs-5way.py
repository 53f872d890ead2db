# Only for tests: tools/test.py takes the folder of a LoRA for vit-micro, such as tools/generate_lora.py writes.
_base_ = '../lora_recycle/meta-lora_vit-micro_glyphs-5way.py'
