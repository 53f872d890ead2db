"""Results of a run as a file: ``results.json``, which ``tools/summarize.py`` makes tables from.

One file a run, with an entry for each checkpoint, test data and way of testing. It lies beside the checkpoint, since
that is what the numbers are about, wherever it was tested from. Weights that no training here has written (their folder
is no run) are recorded in the work directory of the test.
"""

import hashlib
import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.runner import Runner

from ..engine.adaptation import unwrap_model
from ..engine.protocol import describe_data, describe_run, describe_selection, name_data, plain_data_config, same_data
from ..io.atomic import write_text
from ..io.clip_folder import WEIGHTS, is_adapter_folder
from ..plain_json import parse_json
from ..version import __version__

RESULTS = 'results.json'
FORMAT = 'mmlora results 1'
LABELS = ('method', 'dataset_name', 'config', 'shot', 'split')
FIELDS = {
    'method': (str, type(None)), 'dataset_name': str, 'backbone': str, 'shot': (int, str, type(None)),
    'split': (int, str, type(None)), 'seed': (int, type(None)), 'metrics': dict, 'checkpoint': dict, 'test': dict,
    'protocol': dict, 'protocol.selection': str, 'protocol.at': (str, type(None)),
    'protocol.on_test': (bool, type(None)), 'checkpoint.name': str, 'test.list': (str, type(None)), 'test.images': int,
    'test.majority_rate': (int, float, type(None)),
}  # yapf: disable
"""What an entry must hold, and of which type; a dot leads into a part of it."""


def make_record(
    cfg: Config, runner: Runner, checkpoint: str, meta: Mapping[str, Any], metrics: Mapping[str, Any],
    tta: bool = False, amp: bool = False,
) -> dict[str, Any]:
    """Describe the result of a test.

    Labels that training wrote into the checkpoint win over those of the config, as they say what was trained; the name
    of the data set is that of the test data, and ``trained_on`` says what was trained on, where that is known.

    Args:
        cfg: The prepared config of the test.
        runner: The runner that has tested.
        checkpoint: The checkpoint.
        meta: Its ``meta``.
        metrics: The metrics.
        tta: Whether test-time augmentation was used.
        amp: Whether the forward passes were autocast.

    Returns:
        Plain data for JSON; numbers that are not finite become None.
    """
    about = meta.get('mmlora') or {}
    protocol, cut = about.get('protocol'), about.get('truncated')
    labels = describe_run(cfg)
    trained = {**labels, **{name: protocol[name] for name in LABELS if name in protocol}} if protocol else labels
    if any(trained[name] != labels[name] for name in ('method', 'shot', 'split')):
        print_log(f'The checkpoint was trained as {trained}, the config says {labels}: the result is recorded as what '
                  'was trained.', logger='current', level=logging.WARNING)
    dataset = runner.test_dataloader.dataset
    test = describe_data(cfg.test_dataloader.get('dataset'), dataset)
    model = unwrap_model(runner.model)
    record = dict(
        **trained,
        backbone=_backbone_name(cfg.model),
        seed=protocol.get('seed') if protocol else None,
        metrics=dict(metrics),
        checkpoint=dict(name=Path(checkpoint).name, sha256=_sha256(checkpoint)),
        test=dict(test, majority_rate=majority_rate(dataset)),
        protocol=dict(
            describe_selection(protocol, test, of_run=bool({'epoch', 'iter'} & set(meta))),
            averaged=(protocol or {}).get('averaged'), truncated=cut, tta=tta, amp=amp,
        ),
        trained_on=trained['dataset_name'] if protocol else None,
        trainable_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        version=__version__,
        date=datetime.now(timezone.utc).isoformat(timespec='seconds'),
    )
    record['dataset_name'] = name_data(cfg, cfg.test_dataloader.get('dataset'))
    return _finite(record)


def majority_rate(dataset: Any) -> float | None:
    """Return the part of the images that belongs to the largest class, in percent.

    It is what a model reaches that names one class always.

    Args:
        dataset: A built data set.

    Returns:
        None for data of several labels an image, or without labels.
    """
    if not hasattr(dataset, 'get_data_info'):
        return None
    labels = [dataset.get_data_info(index).get('gt_label') for index in range(len(dataset))]
    if not labels or not all(isinstance(label, (int, np.integer)) for label in labels):
        return None
    return float(100 * np.bincount(labels).max() / len(labels))


def results_folder(checkpoint: str, meta: Mapping[str, Any], work_dir: str) -> Path:
    """Return the folder for the results of a checkpoint: its own, else the work directory of the test.

    Args:
        checkpoint: The checkpoint.
        meta: Its ``meta``, which tells whether training here has written it.
        work_dir: Folder of the test's log.
    """
    path = Path(checkpoint).expanduser()
    protocol = (meta.get('mmlora') or {}).get('protocol') or {}
    imported = is_adapter_folder(path) and 'step' not in protocol
    if not protocol or imported or not path.exists():
        return Path(work_dir)
    if not os.access(path.parent, os.W_OK):
        print_log(f'{path.parent} cannot be written to, so the result goes to {work_dir}.', logger='current',
                  level=logging.WARNING)
        return Path(work_dir)
    return path.parent


def write_record(folder: str | os.PathLike, record: Mapping[str, Any]) -> Path:
    """Add an entry to the results of a folder, in place of an earlier one of the same test.

    That is one of the same run (method, shot, split, seed, training data; several may have used the folder one after
    the other), checkpoint, data and way of testing.

    Args:
        folder: Folder of the run.
        record: What :func:`make_record` returns.

    Returns:
        The file.

    Raises:
        ValueError: The folder holds a ``results.json`` of something else.
    """
    path = Path(folder) / RESULTS
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = []
    with _alone(path.parent):
        for other in check_results(folder):
            if not _same_test(other, record):
                kept.append(other)
            elif other['metrics'] != record['metrics']:
                print_log(f'{path}: {other["metrics"]} of {other.get("date")} is replaced by {record["metrics"]}.',
                          logger='current')
        content = dict(format=FORMAT, results=[*kept, dict(record)])
        return write_text(path, json.dumps(content, indent=2, allow_nan=False) + '\n')


def check_results(folder: str | os.PathLike) -> list[dict[str, Any]]:
    """Return the results that a folder holds already, maybe none.

    Raises:
        ValueError: It holds a ``results.json`` that cannot be added to.
    """
    path = Path(folder) / RESULTS
    return read_records(path) if path.exists() else []


def read_records(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Read the results of a run.

    Args:
        path: A ``results.json``.

    Returns:
        The entries.

    Raises:
        ValueError: The file is not what :func:`write_record` writes; the message says what is wrong.
    """
    try:
        content = parse_json(Path(path).read_text(encoding='utf-8'))
    except ValueError as error:
        raise ValueError(f'{path} is no JSON ({error}): delete it and test again') from error
    if not isinstance(content, dict) or content.get('format') != FORMAT or not isinstance(content.get('results'), list):
        raise ValueError(f'{path} was not written by tools/test.py (no "format": "{FORMAT}"): move it away')
    for number, entry in enumerate(content['results']):
        for name, kinds in FIELDS.items():
            part, _, key = name.rpartition('.')
            place = entry[part] if part else entry
            if not isinstance(place, dict) or key not in place or not isinstance(place[key], kinds):
                raise ValueError(f'{path}: {name} of entry {number} is missing or of a wrong type: delete the file and '
                                 'test again')
    return content['results']


def sha256_of(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait for other processes that add results to a folder; two tests of one run may end at the same time."""
    if os.name == 'nt':  # No locks on folders there.
        yield
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        # Network file systems may refuse a lock, and a result without one is better than none.
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _same_test(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    ways = [(r['checkpoint'].get('name'), r['protocol'].get('tta'), r['protocol'].get('amp'),
             r.get('trained_on'), *(r[name] for name in ('method', 'shot', 'split', 'seed'))) for r in (first, second)]
    return ways[0] == ways[1] and same_data(first['test'], second['test'])


def _backbone_name(model: Mapping[str, Any]) -> str:
    """Return type and architecture of a backbone, such as ``VitSR_LoRA base``; ``4x96`` is depth and width."""
    model = model.get('module') or model  # Inside test-time augmentation.
    names = []
    backbone = model.get('backbone') or model
    while isinstance(backbone, Mapping):
        names.append(str(plain_data_config(backbone.get('type'))))
        arch, backbone = backbone.get('arch'), backbone.get('backbone')
        if isinstance(arch, str):
            names.append(arch)
        elif isinstance(arch, Mapping):
            sizes = ('num_layers', 'depths', 'vision_layers', 'embed_dims', 'vision_width')
            names.append('x'.join(str(arch[key]) for key in sizes if key in arch))
    return ' '.join(names)


def _sha256(checkpoint: str) -> str | None:
    path = Path(checkpoint).expanduser()
    path = path / WEIGHTS if is_adapter_folder(path) else path
    return sha256_of(path) if path.is_file() else None


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, (np.generic, np.ndarray)) or hasattr(value, 'tolist'):
        return _finite(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int)) else str(value)
