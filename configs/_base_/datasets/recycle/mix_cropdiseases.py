_base_ = './mix.py'
dataset_name = 'cropdiseases'
test_dataloader = dict(
    dataset=dict(
        _delete_=True, type='MetaSplit', name='cropdiseases', data_root='data/cropdiseases', split='all',
        pipeline={{_base_.test_pipeline}},
    )
)
