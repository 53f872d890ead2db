"""The sets of LoRA-Recycle: reading them as they are published, and writing the published lists."""

import pytest
from fgvc_layouts import make_flowers
from layouts import write_image
from tiny import call_tool

from mmlora.apis.meta_splits import meta_lists
from mmlora.datasets import META_SETS, MetaSplit, find_meta_set
from mmlora.datasets.split_files import load_split

COUNTS = {
    'cifar-fs': (64, 16, 20), 'mini-imagenet': (64, 16, 20), 'cub': (100, 50, 50), 'vgg-flower': (71, 15, 16),
    'cropdiseases': (38,), 'eurosat': (10,), 'isic': (7,), 'chestx': (7,),
}  # fmt: skip


def write(folder, names):
    for number, name in enumerate(names):
        write_image(folder / name, 0, number)
    return folder


def make_folders(folder, name, places=('',)):
    for place, split in zip(places, META_SETS[name].splits, strict=True):
        for own in META_SETS[name].classes(split):
            (folder / place / own).mkdir(parents=True)
            (folder / place / own / 'b.jpg').touch()
            (folder / place / own / 'a.PNG').touch()
    return folder


def make_birds(folder):
    for number in range(200):
        (folder / 'images' / f'{number + 1:03d}.Bird').mkdir(parents=True)
        (folder / 'images' / f'{number + 1:03d}.Bird' / 'x.jpg').touch()
    return folder


def make_skin(folder):
    columns = META_SETS['isic'].classes('all')
    rows = [[f'ISIC_{n:07d}', *('1.0' if k == n % 7 else '0.0' for k in range(7))] for n in range(14)]
    folder.mkdir(exist_ok=True)
    lines = [','.join(row) for row in [['image', *columns], *rows]]
    (folder / 'ISIC2018_Task3_Training_GroundTruth.csv').write_text('\n'.join(lines))
    write(folder / 'ISIC2018_Task3_Training_Input', [f'{row[0]}.jpg' for row in rows])
    return folder


def make_chests(folder):
    found = ['Mass', 'Mass|Nodule', 'No Finding', 'Pneumonia', *META_SETS['chestx'].classes('all')]
    folder.mkdir(exist_ok=True)
    rows = [f'{n:08d}_000.png,{finding},0' for n, finding in enumerate(found)]
    (folder / 'Data_Entry_2017.csv').write_text('\n'.join(['Image Index,Finding Labels,Follow-up #', *rows]))
    write(folder / 'images_001' / 'images', [f'{n:08d}_000.png' for n in range(5)])
    write(folder / 'images_002' / 'images', [f'{n:08d}_000.png' for n in range(5, len(found))])
    return folder


MAKE = {
    'cifar-fs': lambda f: make_folders(f, 'cifar-fs', ('meta_train', 'meta_val', 'meta_test')),
    'cub': make_birds,
    'cropdiseases': lambda f: make_folders(f, 'cropdiseases'),
    'eurosat': lambda f: make_folders(f, 'eurosat'),
    'isic': make_skin,
    'chestx': make_chests,
}


@pytest.mark.parametrize('name', META_SETS)
def test_the_classes_of_the_splits(name):
    classes = [META_SETS[name].classes(split) for split in META_SETS[name].splits]
    assert tuple(map(len, classes)) == COUNTS[name]
    everything = [own for split in classes for own in split]
    assert len(set(everything)) == len(everything)
    assert load_split(f'lora_recycle/{name}.json')['source']


def test_the_rules_of_the_published_splits():
    assert META_SETS['cub'].classes('meta_val') == list(range(1, 200, 4))
    assert META_SETS['cub'].classes('meta_test') == list(range(3, 200, 4))
    flowers = [own for split in META_SETS['vgg-flower'].splits for own in META_SETS['vgg-flower'].classes(split)]
    assert sorted(flowers) == list(range(102))


@pytest.mark.parametrize('name', MAKE)
def test_a_set_is_read_as_it_is_published(name, tmp_path):
    folder = MAKE[name](tmp_path / name)
    for split in META_SETS[name].splits:
        data = MetaSplit(name, split, str(folder))
        assert len(data.metainfo['classes']) == len(META_SETS[name].classes(split))
        labels = data.get_gt_labels().tolist()
        assert labels == sorted(labels) and set(labels) == set(range(len(data.metainfo['classes'])))
        for i in range(len(data)):
            own = data.metainfo['classes'][labels[i]]
            assert name in ('isic', 'chestx') or f'/{own}/' in data.get_data_info(i)['img_path']


def test_skin_and_chests_by_their_tables(tmp_path):
    skin = MetaSplit('ISIC2018', 'all', str(make_skin(tmp_path / 'isic')))
    assert skin.get_data_info(2)['img_path'].endswith('ISIC2018_Task3_Training_Input/ISIC_0000001.jpg')
    assert [skin.get_data_info(i)['gt_label'] for i in range(4)] == [0, 0, 1, 1]
    chests = MetaSplit('chest', 'all', str(make_chests(tmp_path / 'chestx')))
    assert len(chests) == 8  # Of 11: two findings, none, and one that is not among the seven do not count.
    mass = chests.metainfo['classes'].index('Mass')
    assert [info['img_path'].rsplit('/', 1)[1] for info in map(chests.get_data_info, range(8))
            if info['gt_label'] == mass] == ['00000000_000.png', '00000008_000.png']


def test_flowers_from_the_official_files(tmp_path):
    folder = make_flowers(tmp_path / 'flowers')
    train = META_SETS['vgg-flower'].images
    with pytest.raises(ValueError, match='has no image of'):
        train(folder, 'meta_val')  # The small set has images of some classes alone.
    found = META_SETS['vgg-flower'].read(folder, [1, 0])
    assert list(found) == ['2', '1'] and all(name.startswith('jpg/image_') for name in found['1'])
    assert found['1'] == sorted(found['1'])


def test_the_published_lists(tmp_path):
    folder = MAKE['cub'](tmp_path / 'cub')
    lists = meta_lists(folder, 'cub', tmp_path / 'out')
    assert [path.name for path in lists] == ['meta_train.csv', 'meta_val.csv', 'meta_test.csv']
    lines = lists[tmp_path / 'out' / 'meta_val.csv'].splitlines()
    assert lines[0] == 'filename,label' and len(lines) == 51
    assert lines[1] == f'{folder.as_posix()}/images/002.Bird/x.jpg,002.Bird'


def test_lists_of_all_sets_and_names_with_commas(tmp_path):
    MAKE['cropdiseases'](tmp_path / 'cropdiseases')
    MAKE['eurosat'](tmp_path / 'eurosat')
    lists = meta_lists(tmp_path, 'all')
    assert set(lists) == {tmp_path / 'cropdiseases' / 'meta_train.csv', tmp_path / 'eurosat' / 'meta_train.csv'}
    lines = lists[tmp_path / 'cropdiseases' / 'meta_train.csv'].splitlines()
    assert lines[0] == 'filename#label' and len(lines) == 1 + 2 * 38
    assert any(line.endswith('a.PNG#Pepper,_bell___healthy') for line in lines)
    assert all(line.count('#') == 1 for line in lines)
    with pytest.raises(ValueError, match="holds ',', which separates"):
        meta_lists(make_folders(tmp_path / 'a,b', 'eurosat'), 'eurosat')


def test_the_tool(tmp_path, capsys):
    folder = MAKE['eurosat'](tmp_path / 'eurosat')
    command = ['make_splits', 'metasplit', '--data-root', folder, '--name', 'EuroSAT', '--out', tmp_path / 'out']
    assert call_tool(*command) == 0
    assert capsys.readouterr().out == f'{tmp_path / "out" / "meta_train.csv"}: 20 images\n'
    assert call_tool(*command) == 0 and 'as it was' in capsys.readouterr().out
    assert call_tool(*command[:-2], '--data-root', tmp_path / 'no') == 2 and 'EuroSAT' in capsys.readouterr().err


@pytest.mark.parametrize('name, split, error, message', [
    ('cubs', 'meta_train', ValueError, "has no set 'cubs'.*did you mean 'cub'"),
    ('cub', 'train', ValueError, "has the splits meta_train, meta_val, meta_test, not 'train'"),
    ('eurosat', 'meta_train', ValueError, "EuroSAT has the splits all, not 'meta_train'"),
    ('eurosat', 'all', FileNotFoundError, 'which should hold EuroSAT'),
])
def test_what_cannot_be_read(name, split, error, message, tmp_path):
    with pytest.raises(error, match=message):
        MetaSplit(name, split, str(tmp_path / 'nothing'))


def test_folders_and_files_that_are_missing(tmp_path):
    folder = MAKE['eurosat'](tmp_path / 'eurosat')
    (folder / 'River').rename(folder / 'Rivers')
    with pytest.raises(FileNotFoundError, match="has no folder 'River' of images"):
        MetaSplit('eurosat', 'all', str(folder))
    (folder / 'images').mkdir()
    with pytest.raises(ValueError, match='has 0 folders, and CUB-200-2011 has 200'):
        MetaSplit('cub', 'meta_val', str(folder))
    with pytest.raises(FileNotFoundError, match='Data_Entry_2017.csv'):
        MetaSplit('chestx', 'all', str(folder))
    table = make_skin(tmp_path / 'isic') / 'ISIC2018_Task3_Training_GroundTruth.csv'
    table.write_text(table.read_text().replace('VASC', 'VAS'))
    with pytest.raises(ValueError, match="has no column 'VASC'"):
        MetaSplit('isic', 'all', str(table.parent))
    (tmp_path / 'none').mkdir()
    with pytest.raises(FileNotFoundError, match='has none of the folders'):
        meta_lists(tmp_path / 'none', 'all')
    assert find_meta_set('CUB_200_2011').name == 'cub'
