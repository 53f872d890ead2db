# Combinations of a letter and a mark that pre-training has seen apart, such as LATIN SMALL LETTER S WITH CIRCUMFLEX: 36
# letters. clip-micro knows all words of their names.
_base_ = './glyphs_clip.py'
dataset_name = 'glyphs-unseen-combinations'
train_dataloader = dict(dataset=dict(held_out='combinations'))
test_dataloader = dict(dataset=dict(held_out='combinations'))
