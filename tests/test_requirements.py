"""What ``import mmlora`` says in an environment that lacks something."""

import subprocess
import sys

import pytest

from mmlora import _requirements

HIDE = '''
import sys

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] == 'mmcv':
            raise ModuleNotFoundError("No module named 'mmcv'", name='mmcv')

sys.meta_path.insert(0, Hide())
import mmlora
'''


def test_without_mmcv_the_error_names_the_extra(root, tmp_path):
    done = subprocess.run([sys.executable, '-c', HIDE], cwd=root, capture_output=True, text=True)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith('ImportError: ') and 'mmlora[lite]' in last and 'mmcv' in last
    assert 'in a clone: pip install -e ".[lite]"' in last


@pytest.mark.parametrize('package, version, message', [
    ('mmcv', '1.7.2', r'mmcv>=2\.0\.0,<2\.4\.0, and 1\.7\.2 is installed.*mmlora\[lite\]'),
    ('mmcv', '2.4.0', 'mmcv>=2'),
    ('mmengine', '0.10.5', r'mmengine>=0\.10\.6,<1\.0\.0, and 0\.10\.5'),
    ('mmengine', '1.0.0', 'mmengine>=0'),
    ('mmpretrain', '1.3.0', r'mmpretrain>=1\.2\.0,<1\.3\.0, and 1\.3\.0'),
])
def test_versions_out_of_range_are_refused(monkeypatch, package, version, message):
    real = _requirements.metadata.version
    monkeypatch.setattr(_requirements.metadata, 'version', lambda name: version if name == package else real(name))
    with pytest.raises(ImportError, match=message):
        _requirements.check()


@pytest.mark.parametrize('version', ['0.10.6', '0.10.7', '0.11.0rc3', '0.99'])
def test_versions_in_range_pass(monkeypatch, version):
    real = _requirements.metadata.version
    monkeypatch.setattr(_requirements.metadata, 'version', lambda name: version if name == 'mmengine' else real(name))
    _requirements.check()
