"""How mmlora is built and installed.

Nothing here imports torch or mmengine: pip runs this file in an environment that holds setuptools alone.

``configs``, ``tools``, ``data_splits`` and ``model-index.yml`` live at the top of the repository, where users of
OpenMMLab look for them, while ``mim`` and ``mmlora::...`` configs look under ``mmlora/.mim``. An editable install puts
links there, a wheel holds copies. A source distribution holds the originals, so that a wheel made from it is the same.
"""

import os
import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
MIM_ITEMS = ('configs', 'tools', 'data_splits', 'model-index.yml')

LITE = ['mmcv-lite>=2.1.0,<2.4.0']
QUICKSTART = ['scikit-learn']
CLIP = ['open_clip_torch>=2.20', 'ftfy']
HF = ['transformers>=4.40', 'peft', 'timm']
BENCH = [*HF, 'open_clip_torch>=2.20', 'loralib']
FLORENCE = ['transformers>=5', 'faster-coco-eval>=1.6']
EXTRAS = {
    'lite': LITE,
    'quickstart': QUICKSTART,
    'tests': ['pytest', 'pytest-timeout', 'pytest-xdist', 'hypothesis', 'setuptools>=77.0.3', *LITE, *QUICKSTART,
              *HF, *CLIP, *FLORENCE],
    'vis': ['tensorboard', 'scikit-learn', 'grad-cam>=1.4.8,<1.5'],
    'clip': CLIP,
    'hf': HF,
    'bench': BENCH,
    'florence': FLORENCE,
    'mim': ['mmcv>=2.0.0,<2.4.0', 'mmengine>=0.10.6,<1.0.0'],
    # To make VTAB-1k, once. tensorflow_datasets 4.9.10 uses importlib-resources without asking for it.
    'vtab': ['tensorflow', 'tensorflow-datasets>=4.9', 'importlib-resources'],
    'ray': ['ray>=2.10'],
    'lint': ['ruff==0.17.5'],
}


def read_version() -> str:
    text = (ROOT / 'mmlora' / 'version.py').read_text(encoding='utf-8')
    match = re.search(r"^__version__ = '([^']+)'$", text, re.MULTILINE)
    if match is None:
        raise RuntimeError("mmlora/version.py has no line of the form __version__ = '...'")
    return match.group(1)


def remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)


def copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns('__pycache__', '*.py[cod]', '.*'))
    else:
        shutil.copy2(source, target)


def link(source: Path, target: Path) -> None:
    try:
        target.symlink_to(os.path.relpath(source, target.parent), target_is_directory=source.is_dir())
    except OSError:  # Windows allows links to administrators alone
        copy(source, target)


class BuildPy(build_py):
    """``build_py`` that also fills ``mmlora/.mim``.

    OpenMMLab's usual ``add_mim_extension`` looks for the word ``develop`` in ``sys.argv``. pip says ``editable_wheel``
    today, so the folder would stay empty; setuptools tells this command instead.
    """

    def run(self) -> None:
        super().run()
        place, folder = (link, ROOT) if self.editable_mode else (copy, Path(self.build_lib))
        mim = folder / 'mmlora' / '.mim'
        remove(mim)
        mim.mkdir(parents=True)
        for item in MIM_ITEMS:
            if (ROOT / item).exists():
                place(ROOT / item, mim / item)


setup(
    name='mmlora',
    version=read_version(),
    description='Low-rank adaptation of vision foundation models for OpenMMLab, with ranks chosen from the weights',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author='The mmlora authors',
    license='Apache-2.0',
    license_files=['LICENSE'],
    keywords=['low-rank adaptation', 'LoRA', 'fine-tuning', 'vision transformer', 'OpenMMLab', 'few-shot'],
    classifiers=[
        'Development Status :: 3 - Alpha',
        'Intended Audience :: Science/Research',
        'Operating System :: OS Independent',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
    packages=find_packages(include=['mmlora', 'mmlora.*']),
    package_data={
        'mmlora': [
            'py.typed',
            *(f'assets/*.{ending}' for ending in ('safetensors', 'md', 'json', 'txt')),
            *('assets/hub_*/*.*', 'assets/hub_*/*/*', 'assets/banks_*/*.*', 'assets/banks_*/*/*'),
        ]
    },
    python_requires='>=3.10',
    install_requires=[
        'torch>=2.6',
        'torchvision>=0.21',
        'mmengine>=0.10.6,<1.0.0',
        'mmpretrain>=1.2.0,<1.3.0',
        'numpy>=1.26',
        'scipy>=1.11',
        'safetensors',
    ],
    extras_require=EXTRAS,
    cmdclass={'build_py': BuildPy},
    zip_safe=False,
)
