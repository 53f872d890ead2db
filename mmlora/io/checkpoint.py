"""The checkpoint loader: every way by which mmengine fetches a checkpoint ends in one safe reader.

mmengine reads checkpoints with ``torch.load`` in full trust, or cannot read its own with today's torch, depending on
the versions. :func:`register_loaders` replaces the loader of each of its schemes, so that ``load_from``, ``resume``,
``init_cfg``, inferencers and ``mmengine.runner.load_checkpoint`` alike read through :mod:`mmlora.io.reader`.

Three things happen after reading. Weights of a foreign layout are converted to the names of mmpretrain's backbone
(:mod:`mmlora.io.convert`); what mmpretrain or mmlora wrote is left as it is. Plain data of :mod:`mmlora.io.plain` is
turned back into history buffers. And Python text that mmengine would run (``Runner.resume`` runs ``meta['config']``;
``BaseInferencer`` runs ``meta['cfg']`` and ``message_hub['runtime_info']['cfg']`` when it is given no config) is moved
to the names ``mmlora_config_text`` and ``mmlora_cfg_text``, which nothing looks up: only the config file that a user
names is a program. An inferencer therefore needs its config or a model's name beside the checkpoint, else mmengine says
that it cannot find the config.
"""

import difflib
import functools
import os
import tempfile
from collections.abc import Callable, Mapping
from logging import Logger
from pathlib import Path
from urllib.parse import unquote, urlparse

import torch
from mmengine.dist import barrier, get_rank, get_world_size
from mmengine.fileio import get_file_backend
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as stock

from .clip_folder import folder_checkpoint, is_adapter_folder
from .clip_lora_file import is_published_lora
from .convert import convert_checkpoint
from .kind_folder import is_kind_folder, kind_checkpoint
from .lora_checkpoint import is_lora_folder, lora_checkpoint
from .plain import from_plain
from .reader import MapLocation, read_checkpoint

PROGRAMS = {'cfg': 'mmlora_cfg_text', 'config': 'mmlora_config_text'}
"""Names under which mmengine looks for Python text in a checkpoint, and those under which the loader keeps it."""

HUB_NAMES = ('model', 'pytorch_model', 'open_clip_model', 'open_clip_pytorch_model')
"""Names of files that tell nothing of what they hold."""


def load_checkpoint(
    path: str | os.PathLike,
    map_location: MapLocation = 'cpu',
    logger: Logger | None = None,
    convert: bool = True,
) -> dict:
    """Read a checkpoint from a file or any scheme of mmengine's loader, without trusting it.

    Args:
        path: A local path, or a name such as ``https://...``, ``s3://...``, ``mmlora://vit-micro``.
        map_location: Where tensors go, as for ``torch.load``.
        logger: Where mmengine announces the load; None says nothing.
        convert: Whether weights of a foreign layout (timm, Hugging Face, CLIP, Google ...) come under the names of
            mmpretrain's backbone, as they do wherever mmengine reads a checkpoint. False keeps those of the file.

    Returns:
        The checkpoint with working history buffers and without Python text under the names that mmengine runs.

    Raises:
        FileNotFoundError: There is no such file; near misses are named.
        ValueError: The file is damaged, no checkpoint, or holds more than data; or a name is unknown.
        ConnectionError: A download failed.
    """
    path = os.fspath(path)
    if convert:
        return CheckpointLoader.load_checkpoint(path, map_location, logger or 'silent')
    loader = CheckpointLoader._get_checkpoint_loader(path)
    return getattr(loader, '__wrapped__', loader)(path, map_location)


def register_loaders() -> None:
    """Replace the loader of every scheme that mmengine knows, and add ``mmlora://``. Idempotent."""
    for prefixes, loader in _LOADERS:
        CheckpointLoader.register_scheme(prefixes, _converting(loader), force=True)


def _converting(loader: Callable[..., dict]) -> Callable[..., dict]:
    @functools.wraps(loader)
    def load(filename: str, map_location: MapLocation = None) -> dict:
        return convert_checkpoint(loader(filename, map_location), filename)

    return load


def load_from_local(filename: str, map_location: MapLocation = None) -> dict:
    """Read a local file or an adapter folder; the end of every other loader.

    Args:
        filename: A path; ``~`` is expanded. A folder gives its factors alone, on the CPU; see
            :mod:`mmlora.io.clip_folder`, :mod:`mmlora.io.lora_checkpoint` and :mod:`mmlora.io.kind_folder`.
        map_location: As for ``torch.load``; None reads to the CPU.

    Returns:
        As :func:`load_checkpoint`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read as a checkpoint.
    """
    if is_lora_folder(filename):
        return lora_checkpoint(filename)
    if is_kind_folder(filename):
        return kind_checkpoint(filename)
    if is_adapter_folder(filename):
        return folder_checkpoint(filename)
    checkpoint = read_checkpoint(filename, map_location)
    if is_published_lora(checkpoint):
        raise ValueError(f'{filename} is a file of the published CLIP-LoRA code, which holds factors alone: make an '
                         'adapter folder of it with tools/import_clip_lora.py, and give that')
    try:
        return _disarm(from_plain(checkpoint, 'the checkpoint'))
    except ValueError as error:
        raise ValueError(f'{filename} cannot be used: {error}') from error


def load_from_http(filename: str, map_location: MapLocation = None) -> dict:
    """Download a file into torch's own cache, unless it is there, and read it.

    In distributed runs rank 0 downloads first.

    Args:
        filename: A URL.
        map_location: As for ``torch.load``.

    Returns:
        As :func:`load_checkpoint`.

    Raises:
        ConnectionError: The download failed.
        ValueError: What was downloaded cannot be read as a checkpoint.
    """
    cached = Path(torch.hub.get_dir()) / 'checkpoints' / _name_in_cache(filename)
    try:
        if get_rank() == 0:
            _download(filename, cached)
    finally:
        barrier()  # Also after an error, lest the others wait for it.
    if get_world_size() > 1:
        _download(filename, cached)  # Finds the file, except on nodes with a disk of their own.
    return load_from_local(str(cached), map_location)


def load_from_ceph(filename: str, map_location: MapLocation = None) -> dict:
    """Fetch a file from S3 or petrel storage and read it.

    Args:
        filename: A name such as ``s3://bucket/name.pth``.
        map_location: As for ``torch.load``.

    Returns:
        As :func:`load_checkpoint`.

    Raises:
        ImportError: The storage's client is not installed.
        ValueError: What was fetched cannot be read as a checkpoint.
    """
    content = get_file_backend(filename, backend_args={'backend': 'petrel'}).get(filename)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / (filename.rsplit('/', 1)[-1] or 'checkpoint')
        path.write_bytes(content)
        return load_from_local(str(path), map_location)


def load_from_torchvision(filename: str, map_location: MapLocation = None) -> dict:
    """Download the weights of a torchvision model, such as ``torchvision://resnet50``, and read them."""
    return load_from_http(_lookup(filename, stock.get_torchvision_models()), map_location)


def load_from_openmmlab(filename: str, map_location: MapLocation = None) -> dict:
    """Read a model of OpenMMLab's older index, such as ``open-mmlab://vgg16_caffe``."""
    scheme, name = filename.split('://', 1)
    name = stock.get_deprecated_model_names().get(name, name)
    target = _lookup(f'{scheme}://{name}', stock.get_external_models())
    if target.startswith(('http://', 'https://')):
        return load_from_http(target, map_location)
    return load_from_local(os.path.join(stock._get_mmengine_home(), target), map_location)


def load_from_mmcls(filename: str, map_location: MapLocation = None) -> dict:
    """Download the backbone of a model of mmcls, such as ``mmcls://mobilenet_v3_small``, and read it."""
    checkpoint = load_from_http(_lookup(filename, stock.get_mmcls_models()), map_location)
    return stock._process_mmcls_checkpoint(checkpoint)


def load_from_pavi(filename: str, map_location: MapLocation = None) -> dict:
    """Refuse ``pavi://``: its client is not public.

    Raises:
        ValueError: Always.
    """
    raise ValueError(f'{filename!r}: pavi:// is not supported; download the file and give its path')


def load_from_mmlora(filename: str, map_location: MapLocation = None) -> dict:
    """Read weights that the package brings, such as ``mmlora://vit-micro``."""
    from mmlora import assets

    return load_from_local(os.fspath(assets.path(filename.split('://', 1)[1])), map_location)


_LOADERS: tuple[tuple[str | tuple[str, ...], Callable[..., dict]], ...] = (
    ('', load_from_local),
    (('http://', 'https://'), load_from_http),
    ((r'(\S+\:)?s3://', r'(\S+\:)?petrel://'), load_from_ceph),
    (('modelzoo://', 'torchvision://'), load_from_torchvision),
    (('open-mmlab://', 'openmmlab://'), load_from_openmmlab),
    ('mmcls://', load_from_mmcls),
    ('pavi://', load_from_pavi),
    ('mmlora://', load_from_mmlora),
)


def _name_in_cache(url: str) -> str:
    path = Path(unquote(urlparse(url).path))
    # Every repository of a hub calls its weights so: the file of another one must not be taken for it.
    return '--'.join(path.parts[1:]) if path.stem in HUB_NAMES else path.name


def _download(url: str, cached: Path) -> None:
    if cached.is_file():
        return
    cached.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(url, str(cached), progress=os.isatty(0))  # It writes aside and renames.
    except OSError as error:
        raise ConnectionError(f'cannot download {url} ({error}): check the address and the connection, or download '
                              'the file elsewhere and give its path') from error


def _lookup(filename: str, index: Mapping[str, str]) -> str:
    scheme, name = filename.split('://', 1)
    if name not in index:
        close = difflib.get_close_matches(name, index, n=3)
        hint = f'; did you mean {" or ".join(close)}?' if close else ''
        raise ValueError(f'{scheme}:// knows no model {name!r}{hint}')
    return index[name]


def _disarm(checkpoint: dict) -> dict:
    if isinstance(checkpoint.get('meta'), dict):
        checkpoint['meta'] = _rename(checkpoint['meta'])
    hub = checkpoint.get('message_hub')
    if isinstance(hub, dict):
        for part in ('runtime_info', 'resumed_keys'):
            if isinstance(hub.get(part), dict):
                hub[part] = _rename(hub[part])
    return checkpoint


def _rename(texts: dict) -> dict:
    return type(texts)((PROGRAMS.get(key, key) if isinstance(key, str) else key, value)
                       for key, value in sorted(texts.items(), key=lambda item: item[0] in PROGRAMS))
