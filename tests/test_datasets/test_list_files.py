import json

import pytest

from mmlora.datasets.list_files import ListedImage, check_images_exist, missing_images, read_list, repeated

SIZES = {'chest': (19, True), 'endo': (4, True), 'colon': (2, False), 'vtab': (100, False)}


def write(folder, text):
    path = folder / 'list.txt'
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize('name', SIZES)
def test_published_lines_parse_as_published(golden, name):
    folder = golden / 'sr_lora' / 'ann'
    expected = json.loads((folder / 'expected.json').read_text())[f'{name}.txt']
    num_classes, multi_label = SIZES[name]
    images = read_list(folder / f'{name}.txt', num_classes, multi_label)
    assert [image.name for image in images] == [row['filename'] for row in expected]
    for image, row in zip(images, expected, strict=True):
        if multi_label:
            assert [int(index in image.label) for index in range(num_classes)] == row['gt']
        else:
            assert image.label == row['gt']


@pytest.mark.parametrize('name, images', [
    ('chest_space_in_name', ['a b.png']), ('chest_trailing_blank', ['a.png']), ('endo_trailing_blank', ['a.png']),
    ('colon_trailing_blank', ['a b.png']),
])
def test_lines_that_the_published_parsers_refuse_are_read(golden, name, images):
    path = golden / 'sr_lora' / 'ann' / f'{name}.txt'
    num_classes, multi_label = SIZES[name.partition('_')[0]]
    assert [image.name for image in read_list(path, num_classes, multi_label)] == images


@pytest.mark.parametrize('text, multi_label, expected', [
    (b'\xef\xbb\xbfa.png 1\r\n\r\nb.png 0\r\n', False, [('a.png', 1, 1), ('b.png', 0, 3)]),
    ('\n \n a/b c.png\t2  \n\n', False, [('a/b c.png', 2, 3)]),
    ('x  y 3 z.png 1', False, [('x  y 3 z.png', 1, 1)]),
    ('a.png 1\na.png 1', False, [('a.png', 1, 1), ('a.png', 1, 2)]),
    ('\u00e4.png 0', False, [('\u00e4.png', 0, 1)]),
    ('a/..b/c..png 0\na..b/D:.png 0', False, [('a/..b/c..png', 0, 1), ('a..b/D:.png', 0, 2)]),
    ('a.png 1,0,1\nb.png 0, 0, 0', True, [('a.png', (0, 2), 1), ('b.png', (), 2)]),
    ('a 1.png 0 0 1', True, [('a 1.png', (2,), 1)]),
], ids=['bom-crlf', 'blanks', 'blanks-in-name', 'repeated', 'unicode', 'dots', 'commas', 'blanks-between'])
def test_harmless_variety_is_read(tmp_path, text, multi_label, expected):
    images = read_list(write(tmp_path, text), 3, multi_label)
    assert images == [ListedImage(*row) for row in expected]
    assert repeated(images) == len(expected) - len({row[0] for row in expected})


@pytest.mark.parametrize('text, multi_label, message', [
    ('', False, 'list is empty'),
    ('\n\n', True, 'list is empty'),
    ('a.png 0\nb.png', False, r"line 2: 'b.png' has no label; a line is \"<name> <class index>\""),
    ('a.png cat', False, 'has no label'),
    ('a.png 3', False, r'label 3, outside of 0\.\.2 \(3 classes\)'),
    ('a.png -1', False, r'label -1, outside of 0\.\.2'),
    ('a.png 0 1 0', False, '3 labels where one class index'),
    ('a.png 0,1', False, '2 labels where one class index'),
    ('a.png +-1', False, r"label '\+-1' where a class index"),
    ('a.png 0,1', True, 'has 2 labels where 3 belong'),
    ('a.png 0 1 0 1', True, 'has 4 labels where 3 belong'),
    ('a.png 0,2,0', True, "label '2' where each must be 0 or 1"),
    ('a.png 0,,0', True, "label '' where each must be"),
    ('/data/a.png 0', False, "absolute path '/data/a.png'"),
    ('C:/a.png 0', False, "Windows drive in 'C:/a.png'"),
    ('images\\a.png 0', False, 'backslash'),
    ('x/../../a.png 0', False, r"leaves the image folder by \.\."),
    ('../a.png 0', False, r"leaves the image folder by \.\."),
    ('a/.. 0', False, r"leaves the image folder by \.\."),
    ('a.png 0\n\na.png 1', False, r"line 3: 'a.png' has the label 1, but 0 in line 1"),
    (b'\xff\xfea\x00', False, 'not text in UTF-8'),
])
def test_faults_are_quoted(tmp_path, text, multi_label, message):
    with pytest.raises(ValueError, match=message) as error:
        read_list(write(tmp_path, text), 3, multi_label)
    assert 'list.txt' in str(error.value)


def test_long_lines_are_quoted_in_part(tmp_path):
    with pytest.raises(ValueError, match=r"line 1: 'a.png 1 1 .*'\.\.\. has no label") as error:
        read_list(write(tmp_path, 'a.png ' + '1 ' * 20000 + 'x'))
    assert len(str(error.value)) < 400 + len(str(tmp_path))


def test_unknown_number_of_classes(tmp_path):
    assert read_list(write(tmp_path, 'a.png 700'))[0].label == 700
    with pytest.raises(ValueError, match='below 0'):
        read_list(write(tmp_path, 'a.png -1'))
    assert read_list(write(tmp_path, 'a.png 0,1'), multi_label=True)[0].label == (1,)
    with pytest.raises(ValueError, match='line 2.*has 3 labels where 2 belong'):
        read_list(write(tmp_path, 'a.png 0,1\nb.png 0,1,0'), multi_label=True)


def test_missing_list(tmp_path):
    with pytest.raises(FileNotFoundError, match='no list .*none.txt'):
        read_list(tmp_path / 'none.txt')


def test_missing_images_are_found_with_one_listing_per_folder(tmp_path, monkeypatch):
    for name in ('a.png', 'sub/b.png', 'sub/c d.png'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = ['a.png', 'sub/b.png', 'sub/c d.png', 'sub/b.png']
    asked = []
    monkeypatch.setattr('pathlib.Path.is_file', lambda path: asked.append(path))
    assert missing_images(tmp_path, names) == [] and asked == []
    assert missing_images(tmp_path, [*names, 'sub/x.png', 'no/y.png', 'a.png/z.png']) == [
        'sub/x.png', 'no/y.png', 'a.png/z.png']


def test_message_on_missing_images_counts_and_names(tmp_path):
    (tmp_path / 'a.png').touch()
    with pytest.raises(FileNotFoundError, match=r'4 of the 5 images of x.txt are not in .*: b, c, d, \.\.\.'):
        check_images_exist(tmp_path, ['a.png', 'b', 'c', 'd', 'e', 'e'], 'x.txt')
    with pytest.raises(FileNotFoundError, match='there is no folder'):
        check_images_exist(tmp_path / 'none', ['a.png'], 'x.txt')


def test_names_that_a_disk_lists_in_other_letters_are_there(tmp_path, monkeypatch):
    (tmp_path / 'a.png').touch()
    monkeypatch.setattr('mmlora.datasets.list_files._names_in', lambda folder: {'A.PNG'})
    assert missing_images(tmp_path, ['a.png', 'b.png']) == ['b.png']
