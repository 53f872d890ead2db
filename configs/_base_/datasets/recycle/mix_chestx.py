_base_ = './mix.py'
dataset_name = 'chestx'
test_dataloader = dict(
    dataset=dict(
        _delete_=True, type='MetaSplit', name='chestx', data_root='data/chestx', split='all',
        pipeline={{_base_.test_pipeline}},
    )
)
