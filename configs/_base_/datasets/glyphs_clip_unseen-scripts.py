# A script that pre-training has not seen: Armenian, 46 letters; scripts=None takes the 222 letters of all four test
# scripts. Most words of their names are new to clip-micro.
_base_ = './glyphs_clip.py'
dataset_name = 'glyphs-unseen-scripts'
scripts = dict(tune=['HEBREW'], otherwise=['ARMENIAN'])
train_dataloader = dict(dataset=dict(held_out='scripts', scripts='{scripts}'))
test_dataloader = dict(dataset=dict(held_out='scripts', scripts='{scripts}'))
