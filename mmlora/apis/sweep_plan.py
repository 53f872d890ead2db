"""Which runs a sweep consists of: configs, and the combinations of settings for each.

A run is known by what it computes: a hash of its config with all settings merged and all variables settled, without
the places where files lie. Its folder is named for people, after the config file and the settings.
"""

import copy
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction

from ..engine.protocol import plain_data_config
from .options import merge_options
from .unused_variables import refuse_idle_options
from .variables import settle_variables

SEED = 'randomness.seed'
JOIN = '+'
"""Joins keys that take the same value together, as in ``randomness.seed+train_dataloader.dataset.seed``."""
LABELS = ('method', 'dataset_name')
PLACES = ('work_dir', 'run_folder', 'data_root', 'settled_variables')
"""What a config may say otherwise without being another run: where files lie, and what settling leaves behind."""
_LONGEST = 120  # Characters of a folder's name, which file systems limit to 255 bytes.


@dataclass(frozen=True)
class Grid:
    """Configs, each run with each combination of settings.

    Attributes:
        configs: Config files.
        options: Dotted key (several joined by ``+`` take the same value) -> its values.
    """

    configs: tuple[Path, ...]
    options: Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Job:
    """A run of a sweep.

    Attributes:
        name: Its folder, relative to that of the sweep.
        config: The config file.
        options: Settings that replace those of the config, by dotted key.
        measure: Key of :data:`MEASURES`, the data that its last checkpoint is tested on.
        settled: What is computed: the config with everything settled, as plain data without places.
    """

    name: str
    config: Path
    options: Mapping[str, Any]
    measure: str
    settled: Mapping[str, Any]

    @property
    def key(self) -> str:
        """The identity of the run: the first 16 digits of a SHA-256 of what is computed."""
        return hashlib.sha256(json.dumps(self.settled, sort_keys=True).encode()).hexdigest()[:16]


def read_grid(path: str | Path) -> Grid:
    """Read a sweep file.

    Args:
        path: A Python file with ``configs``, paths relative to it, and ``options``, lists of values by dotted key.

    Raises:
        FileNotFoundError: It does not exist, or a config that it names.
        ValueError: It has other entries, or an option without values.
    """
    sweep = Config.fromfile(str(path))
    if set(sweep) != {'configs', 'options'} or not sweep.configs:
        raise ValueError(f'{path}: a sweep has a list of "configs" and a dict of "options", and nothing else; this '
                         f'file has {", ".join(sweep) or "nothing"}')
    folder = Path(path).resolve().parent
    return Grid(tuple(_existing(folder / config) for config in sweep.configs), _checked(sweep.options, path))


def is_sweep_file(path: str | Path) -> bool:
    """Return whether a file holds a sweep, and not the config of a run.

    Raises:
        FileNotFoundError: There is no such file.
    """
    return 'configs' in Config.fromfile(str(_existing(Path(path))))


def parse_values(text: str) -> tuple[str, list[Any]]:
    """Split ``key=v1,v2`` of the command line into the key and the list of its values.

    Commas inside brackets do not separate: ``key=[1,2],[3,4]`` has two values, each a list.

    Raises:
        ValueError: There is no key or no value, or brackets are not closed.
    """
    key, equals, values = text.partition('=')
    parts, depth = [''], 0
    for letter in values:
        depth += (letter in '[(') - (letter in '])')
        parts = [*parts, ''] if letter == ',' and not depth else [*parts[:-1], parts[-1] + letter]
    parts = [part.strip() for part in parts]
    if not equals or not key.strip() or not all(parts) or depth:
        raise ValueError(f'settings are written key=value or key=value1,value2, got {text!r}')
    return key.strip(), [DictAction._parse_iterable(part) for part in parts]


def with_options(grid: Grid, options: Mapping[str, Sequence[Any]], seeds: Sequence[int] | None = None) -> Grid:
    """Return the grid with the values of some settings replaced, or settings added.

    Args:
        grid: The grid.
        options: Values by key, as in :class:`Grid`.
        seeds: Values of the setting that holds ``randomness.seed``.
    """
    new = {**grid.options, **options}
    if seeds is not None:
        new[seed_key(new)] = list(seeds)
    return Grid(grid.configs, _checked(new, 'the command line'))


def only(grid: Grid, datasets: Sequence[str] = (), patterns: Sequence[str] = ()) -> Grid:
    """Return the grid with some of its configs.

    Args:
        grid: The grid.
        datasets: Keep the configs of these data sets, by their ``dataset_name``; all by default.
        patterns: Keep the configs whose file names match one of these shell patterns; all by default.

    Raises:
        ValueError: A data set or pattern fits no config.
    """
    configs = list(grid.configs)
    named = {config: str(Config.fromfile(str(config)).get('dataset_name')) for config in configs} if datasets else {}
    for wanted, fits in ((datasets, lambda config, text: named[config] == text),
                         (patterns, lambda config, text: fnmatch(config.stem, text))):
        for text in wanted:
            if not any(fits(config, text) for config in configs):
                known = sorted(set(named.values())) if wanted is datasets else [config.stem for config in configs]
                raise ValueError(f'{text!r} fits none of the configs: there are {", ".join(known)}')
        configs = [config for config in configs if not wanted or any(fits(config, text) for text in wanted)]
    return Grid(tuple(configs), grid.options)


def seed_key(options: Mapping[str, Any]) -> str:
    """Return the key, maybe a joined one, that sets the seed; the plain one where none does."""
    return next((key for key in options if SEED in key.split(JOIN)), SEED)


def points(options: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Yield every combination of the settings."""
    for values in itertools.product(*options.values()):
        yield dict(zip(options, values, strict=True))


def make_jobs(
    pairs: Sequence[tuple[Path, Mapping[str, Any]]],
    *,
    prefix: str = '',
    measure: str = 'test',
    fixed: Mapping[str, Any] | None = None,
) -> list[Job]:
    """Return the runs for some configs and settings.

    Args:
        pairs: Config file and settings, by keys that may be joined.
        prefix: Folder of these runs inside that of the sweep.
        measure: Key of :data:`MEASURES`.
        fixed: Settings of every run, which do not show in the names.

    Raises:
        ValueError: A setting has no effect or is mistyped, or two runs would be the same or share a folder.
    """
    stems, loaded = _stems([config for config, _ in pairs]), {}
    jobs: dict[str, Job] = {}
    keys: dict[str, str] = {}
    for config, point in pairs:
        cfg = loaded.setdefault(config, Config.fromfile(str(config)))
        options = {**(fixed or {}), **spread(point)}
        settled = identity(settle_job(copy.deepcopy(cfg), options, measure))
        name = '/'.join(filter(None, (prefix, stems[config], name_point(point))))
        job = Job(name, config, options, measure, settled)
        if job.name in jobs:
            raise ValueError(f'two runs have the folder {job.name}: a value is there twice')
        if job.key in keys:
            raise ValueError(f'{keys[job.key]} and {job.name} are the same run: a setting has no effect')
        jobs[job.name], keys[job.key] = job, job.name
    return list(jobs.values())


def spread(point: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with joined keys written out."""
    return {part: value for key, value in point.items() for part in key.split(JOIN)}


def name_point(point: Mapping[str, Any]) -> str:
    """Return a folder's name for settings, such as ``shot5_split2_seed0``.

    Args:
        point: Settings; of several keys of the same ending all of the key is written.
    """
    # As JSON keeps them, so that a sweep that is read back from its folder finds what was done under the same names.
    shown = json.loads(json.dumps({key: value for key, value in point.items() if key not in LABELS}, default=str))
    first = {key: key.split(JOIN)[0] for key in shown}
    ends = [key.rpartition('.')[2] for key in first.values()]
    parts = []
    for key, value in shown.items():
        end = first[key].rpartition('.')[2]
        short = end if ends.count(end) == 1 else first[key]
        parts.append(f'{short}{"" if _is_number(value) else "-"}{value}')
    exact = '_'.join(parts)
    name = re.sub(r'[^\w.+=-]+', '-', exact)
    if name != exact or len(name) > _LONGEST:
        if len(name) > _LONGEST:  # The last settings are those that differ most, such as the seed.
            name = f'{name[:_LONGEST // 2]}--{name[-_LONGEST // 2:]}'
        name = f'{name}_{hashlib.sha256(repr(sorted(shown.items())).encode()).hexdigest()[:8]}'
    return name or 'run'


def settle_job(cfg: Config, options: Mapping[str, Any], measure: str) -> Config:
    """Merge the settings of a run into its config and settle its variables, in place.

    Raises:
        ValueError: A setting is mistyped or has no effect, or the data to measure on cannot be used.
    """
    merge_options(cfg, options)
    refuse_idle_options(cfg, options)
    settle_variables(cfg)
    MEASURES[measure](cfg)
    return cfg


def identity(cfg: Config) -> dict[str, Any]:
    """Return what a settled config computes, as plain data for JSON: all of it but the places where files lie."""
    return json.loads(json.dumps(_without_places(cfg.to_dict()), sort_keys=True, default=str))


def differences(first: Any, second: Any, where: str = '') -> list[str]:
    """Say where two settled configs differ, as in ``optim_wrapper.optimizer.lr: 0.001, now 0.005``."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return [line for key in sorted({*first, *second}) for line in differences(
            first.get(key, 'not set'), second.get(key, 'not set'), f'{where}.{key}' if where else key)]
    return [] if first == second else [f'{where}: {first!r}, now {second!r}']


def measure_on_test(cfg: Config) -> None:
    """Check that a config has test data.

    Raises:
        ValueError: It has none.
    """
    if not cfg.get('test_dataloader') or not cfg.get('test_evaluator'):
        raise ValueError(f'{cfg.filename} has no test data: it needs test_dataloader, test_evaluator and test_cfg')


def measure_on_validation(cfg: Config) -> None:
    """Put the validation data of a config in the place of its test data, which choosing may not see.

    Raises:
        ValueError: It has no validation data, or they are its test data.
    """
    if not cfg.get('val_dataloader') or not cfg.get('val_evaluator'):
        raise ValueError(f'{cfg.filename} has no validation data to choose settings with: it needs val_dataloader and '
                         'val_evaluator. Where its variables ask for them, give --tune-set tune=True or --tune-set '
                         'val_split=val200')
    val, test = (plain_data_config((cfg.get(f'{part}_dataloader') or {}).get('dataset')) for part in ('val', 'test'))
    if val == test:
        raise ValueError(f'the validation data of {cfg.filename} are its test data: settings cannot be chosen with '
                         'them. Give test_dataloader images of their own, or val_dataloader some that were held out of '
                         'the training images')
    cfg.test_dataloader, cfg.test_evaluator = copy.deepcopy((cfg.val_dataloader, cfg.val_evaluator))
    cfg.test_cfg = cfg.get('test_cfg') or {}


MEASURES: dict[str, Callable[[Config], None]] = {'test': measure_on_test, 'val': measure_on_validation}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _without_places(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {str(key): _without_places(value) for key, value in node.items() if key not in PLACES}
    return [_without_places(value) for value in node] if isinstance(node, list | tuple) else node


def _stems(configs: Sequence[Path]) -> dict[Path, str]:
    stems = {config: config.stem for config in configs}
    if len(set(stems.values())) < len(stems):
        stems = {config: f'{config.parent.name}_{config.stem}' for config in configs}
    return stems


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f'there is no file {str(path)!r}')
    return path.resolve()


def _checked(options: Mapping[str, Any], where: str | Path) -> dict[str, list[Any]]:
    for key, values in options.items():
        if not isinstance(values, list | tuple) or not values:
            raise ValueError(f'{where}: the option {key!r} needs a list of at least one value, got {values!r}')
        for other in options:
            if other != key and set(other.split(JOIN)) & set(key.split(JOIN)):
                raise ValueError(f'{where}: {key!r} and {other!r} set the same key')
    return {key: list(values) for key, values in options.items()}
