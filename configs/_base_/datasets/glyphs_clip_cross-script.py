# Trained on one script that pre-training has not seen, tested on the others.
_base_ = './glyphs_clip.py'
dataset_name = 'glyphs-georgian-to-others'
train_scripts = dict(tune=['HEBREW'], otherwise=['GEORGIAN'])
test_scripts = dict(tune=['NKO', 'OGHAM'], otherwise=['ARMENIAN', 'LAO', 'TIFINAGH'])
train_dataloader = dict(dataset=dict(held_out='scripts', scripts='{train_scripts}'))
test_dataloader = dict(dataset=dict(held_out='scripts', scripts='{test_scripts}'))
