# Tests on handwritten digits of what was learned from LoRAs of printed letters.
_base_ = './meta-lora_vit-micro_glyphs-5way.py'
dataset_name = 'digits'
test_dataloader = dict(dataset=dict(_delete_=True, type='Digits', split='test', pipeline={{_base_.pipeline}}))
