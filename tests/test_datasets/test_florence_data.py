"""Annotations of boxes as text: both published forms, tasks of single classes, and what is wrong with a line."""

import json
import re

import pytest
import torch
from florence_tiny import write_pictures
from mmpretrain.registry import DATASETS

import mmlora  # noqa: F401
from mmlora.datasets.florence import FlorenceDetection, read_annotations
from mmlora.io.location_tokens import box_pixels, keep_classes, read_boxes, write_boxes

DOG, HOT = 'dog<loc_1><loc_2><loc_3><loc_4>', 'hotdog<loc_5><loc_6><loc_7><loc_8>'
LINES = [
    dict(image='a.jpg', prefix='<OD>', suffix=DOG + HOT),
    dict(id=2, image_path='b.jpg', height=20, width=30, suffix=HOT),
    dict(image='c.jpg', suffix=''),
]


def test_the_published_filter_without_its_mistake(golden):
    case = json.loads((golden / 'icm_lora' / 'filter_one.json').read_text())
    kept = {}
    for entry in case['input']:
        boxes = keep_classes(read_boxes(entry.get('suffix', '')), {case['category']})
        if boxes:
            kept[entry['id']] = write_boxes(boxes)
    published = {entry['id']: entry['suffix'] for entry in case['output']}
    assert published.pop(2) == 'dog<loc_1><loc_2><loc_3><loc_4>'  # of a hotdog
    assert kept == published


def test_several_boxes_of_a_name_and_their_pixels():
    boxes = read_boxes('potted plant<loc_0><loc_0><loc_999><loc_999><loc_5><loc_6><loc_5><loc_8>')
    assert [box.name for box in boxes] == ['potted plant'] * 2 and boxes[1].bins == (5, 6, 5, 8)
    assert read_boxes(write_boxes(boxes)) == boxes
    wanted = torch.tensor([[0.15, 0.05, 299.85, 99.95]], dtype=torch.float64)
    torch.testing.assert_close(box_pixels([boxes[0].bins], 100, 300), wanted, rtol=0, atol=1e-10)
    assert box_pixels([], 100, 300).shape == (0, 4)


def test_both_forms_are_read_and_classes_make_a_task(tmp_path):
    write_pictures(tmp_path, 'train', LINES)
    cfg = dict(type='FlorenceDetection', data_root=str(tmp_path), ann_file='train/annotations.jsonl', pipeline=[
        dict(type='LoadImageFromFile'), dict(type='Resize', scale=(8, 8)),
        dict(type='PackInputs', algorithm_keys=['prefix', 'suffix', 'gt_names', 'gt_bins'])])
    data = DATASETS.build(cfg)
    assert (len(data), data.metainfo['classes']) == (3, ('dog', 'hotdog'))
    item = data[1]['data_samples']
    assert (item.prefix, item.suffix, item.gt_names, item.gt_bins) == ('<OD>', HOT, ['hotdog'], [[5, 6, 7, 8]])
    assert item.ori_shape == (20, 30) and data[0]['inputs'].shape == (3, 8, 8)
    dogs = DATASETS.build(dict(cfg, classes=['dog']))
    assert [dogs.get_data_info(i)['suffix'] for i in range(len(dogs))] == [DOG]
    assert dogs.metainfo['classes'] == ('dog',) and data.get_cat_ids(0) == [0, 1]


@pytest.mark.parametrize('line, message', [
    ('{"image": "a.jpg"', 'is no JSON'),
    ('[1]', 'holds a list'),
    ('{"image": "a.jpg", "suffix": "", "label": 1}', "unknown key 'label'.*image_path"),
    ('{"suffix": ""}', 'no image: give either image or image_path'),
    ('{"image": "a.jpg", "image_path": "a.jpg", "suffix": ""}', 'image and image_path'),
    ('{"image": "a.jpg"}', 'no suffix'),
    ('{"image": "a.jpg", "suffix": 3}', 'suffix=3'),
    ('{"image": "../a.jpg", "suffix": ""}', r'leaves the image folder'),
    ('{"image": "a.jpg", "suffix": "dog<loc_0><loc_1><loc_1000><loc_2>"}', '<loc_1000>.*<loc_999>'),
    ('{"image": "a.jpg", "suffix": "dog<loc_9><loc_1><loc_8><loc_2>"}', r'from \(9, 1\) to \(8, 2\).*ends before'),
    ('{"image": "a.jpg", "suffix": "dog<loc_0><loc_1><loc_8>"}', "3 location tokens behind 'dog'"),
    ('{"image": "a.jpg", "suffix": "<loc_0><loc_1><loc_8><loc_9>"}', "has '<loc_0>"),
    ('{"image": "a.jpg", "suffix": "dog<loc_0><loc_1><loc_8><loc_9>and more"}', "'and more'"),
    ('{"image": "a.jpg", "suffix": "dog<loc_0><loc_1><loc_-8><loc_9>"}', 'loc_-8'),
])
def test_a_bad_line_is_named(tmp_path, line, message):
    path = tmp_path / 'annotations.jsonl'
    path.write_text(json.dumps(LINES[0]) + '\n\n' + line + '\n')
    with pytest.raises(ValueError, match=re.escape(f'{path}, line 3') + '.*' + message):
        read_annotations(path)


def test_bad_files_and_arguments(tmp_path):
    path = write_pictures(tmp_path, 'train', LINES)
    with pytest.raises(ValueError, match=r"annotations.jsonl: no box is of the class 'do'.*\['dog', 'hotdog'\]"):
        FlorenceDetection(str(path), classes=['do'])
    with pytest.raises(TypeError, match="classes='dog' must be a list"):
        FlorenceDetection(str(path), classes='dog')
    (path.parent / 'b.jpg').unlink()
    with pytest.raises(FileNotFoundError, match=r'1 of the 3 images.*b\.jpg; the first is of line 2'):
        FlorenceDetection(str(path))
    path.write_text('\n')
    with pytest.raises(ValueError, match='no annotation'):
        FlorenceDetection(str(path))
    with pytest.raises(FileNotFoundError, match="no list 'nowhere"):
        FlorenceDetection('nowhere.jsonl')
