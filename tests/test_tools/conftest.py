import pytest
import tiny

from mmlora.apis import train


@pytest.fixture(scope='session')
def images(tmp_path_factory):
    """A folder of generated images in three classes."""
    return tiny.make_images(tmp_path_factory.mktemp('data') / 'images')


@pytest.fixture(scope='session')
def whole_run(tmp_path_factory, images):
    """The folder of an uninterrupted run of the tiny config. Not to be written to."""
    folder = tmp_path_factory.mktemp('whole')
    train(tiny.tiny_config(images, folder))
    return folder
