"""From many LoRAs to one pool of synthetic images: what ``tools/invert.py`` calls."""

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..adapters.token_masks import encode_mask, mask_of_record
from ..adapters.token_pruning import check_ratio
from ..adapters.token_sites import patch_grid
from ..io.pool import INDEX, Pool, PoolImage, image_name, mask_key, write_image
from ..models.batch_norm_prior import BatchNormPrior
from ..progress import note, tidy_terminal, tracked
from ..randomness import derive_seed
from .inversion import Inverted, LoRAInversion, Progress
from .inversion_settings import InversionSettings
from .sweep_lock import lock_folder
from .teachers import Teacher, Teachers, all_classes, check_teachers

LOCK, UNFINISHED = '.pool.lock', 'unfinished'
Say = Callable[[str], object]


@dataclass(frozen=True)
class _Batch:
    """Images that are synthesised together.

    Attributes:
        member: Number of the LoRA.
        number: Of the batch, from 0, among those of the LoRA.
        items: ``(label, number within the class)`` of each image.
    """

    member: int
    number: int
    items: tuple[tuple[int, int], ...]


@tidy_terminal()
def invert_hub(
    teachers: Teachers,
    out: str | os.PathLike,
    per_class: int = 20,
    batch_size: int = 40,
    settings: InversionSettings | None = None,
    prior: BatchNormPrior | None = None,
    mask_ratios: Sequence[float] = (),
    seed: int = 0,
    save_every: int = 100,
    report_every: int = 100,
    say: Say = lambda text: None,
) -> Pool:
    """Synthesise images from every LoRA of a hub and write them as a pool.

    A call on a pool that is not finished goes on with it, and gives what an uninterrupted call would have given.

    Args:
        teachers: The LoRAs, all on the same frozen weights.
        out: Folder of the pool.
        per_class: Images of each class of each LoRA: at least support and query of an episode.
        batch_size: Images that are synthesised together.
        settings: Of the inversion.
        prior: Says which images are likely.
        mask_ratios: For each of them the images get a mask without that part of the patches that pruning left.
        seed: Of all draws.
        save_every: Iterations after which an unfinished batch is written to the disk.
        report_every: Iterations after which a line says how far it is.
        say: Gets these lines.

    Returns:
        The pool.

    Raises:
        ValueError: An argument is out of range, LoRAs have other base weights, or the folder holds a pool that was made
            with other arguments.
        RuntimeError: Another process is making the pool.
    """
    settings, out, began = settings or InversionSettings(), Path(out), time.perf_counter()
    members = list(teachers.members)
    check_teachers(members)
    if per_class < 1 or batch_size < 1:
        raise ValueError(f'per_class={per_class} and batch_size={batch_size} must be at least 1')
    ratios = sorted({check_ratio('mask_ratios', ratio) for ratio in mask_ratios} - {0.0})
    classes = all_classes(members)
    grid = _grid(teachers, members[0], ratios, settings)
    about = dict(
        settings=settings.to_dict(),
        prior=None if prior is None else prior.describe(),
        seed=seed,
        per_class=per_class,
        batch_size=batch_size,
        mask_ratios=ratios,
        image_size=list(teachers.image_size),
        grid=grid,
        mean=list(teachers.mean),
        std=list(teachers.std),
        base=members[0].base,
        loras=[member.name for member in members],
        weights={member.name: member.weights for member in members},
    )
    new = Pool(out, about, list(classes.values()), list(classes), [])
    _refuse_other(new)
    with lock_folder(out, LOCK):
        pool = _refuse_other(new)  # Again: another process may have been at it until now.
        pool.save()
        batches = [
            batch
            for i, member in enumerate(members)
            for batch in _batches(i, len(member.classes), per_class, batch_size)
        ]
        done = {image.file for image in pool.images}
        files = {batch: _files(batch, members[batch.member], pool) for batch in batches}
        left = [batch for batch in batches if not done.issuperset(files[batch])]
        if len(left) < len(batches):
            say(f'{out} holds {len(batches) - len(left)} of {len(batches)} batches already: going on')
        inversion = LoRAInversion(settings, prior)
        for number, batch in enumerate(tracked(left, 'batch')):
            member = members[batch.member]
            own_seed = derive_seed('invert hub', seed, member.name, batch.number)
            state_file = out / UNFINISHED / f'{batch.member:04d}_{batch.number:03d}.safetensors'
            where = f'{member.name} ({batch.member + 1} of {len(members)}), batch {batch.number + 1}'
            with teachers.classifier(member) as classifier:
                result = inversion(
                    classifier,
                    [label for label, _ in batch.items],
                    teachers.image_size,
                    teachers.mean,
                    teachers.std,
                    own_seed,
                    state_file,
                    save_every,
                    lambda p, where=where, number=number: say(_line(p, where, len(left) - number - 1)),
                    report_every,
                )
            masks = _masks(result, settings, ratios, grid)
            images = _write(pool, batch, member, files[batch], result, masks, own_seed)
            known = [image for image in pool.images if image.file not in files[batch]]
            pool = replace(pool, images=[*known, *images])
            pool.save()
            state_file.unlink()
            right = sum(image.correct for image in images)
            note(accuracy=100 * right / len(images))
            say(f'{where}: {right} of {len(images)} images are taken for their class')
        _clean(out)
    say(f'{len(pool.images)} images of {len(classes)} classes in {out}, {time.perf_counter() - began:.0f} s')
    return pool


def _clean(out: Path) -> None:
    """Remove what is needed no more, and what a kill in the middle of a write has left."""
    shutil.rmtree(out / UNFINISHED, ignore_errors=True)
    for file in out.rglob('.*.tmp'):
        file.unlink()


def _grid(
    teachers: Teachers, member: Teacher, ratios: Sequence[float], settings: InversionSettings
) -> list[int] | None:
    """Return rows and columns of the patches; None where no mask is wanted."""
    if not ratios and not settings.prune_layers:
        return None
    with teachers.classifier(member) as classifier:
        rows, columns = patch_grid(classifier)
    height, width = teachers.image_size
    if height % rows or width % columns:
        raise ValueError(f'{rows} x {columns} patches do not divide images of {height} x {width} pixels')
    return [rows, columns]


def _refuse_other(new: Pool) -> Pool:
    """Return the pool in a folder, as far as it is made.

    Args:
        new: It before anything was made, which is returned where the folder holds nothing.

    Raises:
        ValueError: It was made with other arguments, or the folder holds something else.
    """
    out = new.folder
    if (out / INDEX).exists():
        pool = Pool.open(out)
        old, now = ({**p.about, 'classes': list(zip(p.class_ids, p.classes, strict=True))} for p in (pool, new))
        other = sorted(key for key in {*old, *now} if old.get(key) != now.get(key))
        if other:
            raise ValueError(
                f'{out} holds a pool with other {", ".join(other)} ({other[0]}: {old.get(other[0])!r}, now '
                f'{now.get(other[0])!r}): choose another folder, or give the same'
            )
        return pool
    if out.exists() and (not out.is_dir() or any(not path.name.startswith('.') for path in out.iterdir())):
        raise ValueError(f'{out} exists and is no pool: choose an empty folder')
    return new


def _batches(member: int, num_classes: int, per_class: int, batch_size: int) -> Iterator[_Batch]:
    """Yield the batches of a LoRA; labels alternate, so that a batch shows as many classes as it can."""
    items = [(label, number) for number in range(per_class) for label in range(num_classes)]
    for number, start in enumerate(range(0, len(items), batch_size)):
        yield _Batch(member, number, tuple(items[start : start + batch_size]))


def _files(batch: _Batch, member: Teacher, pool: Pool) -> list[str]:
    places = [pool.class_ids.index(class_id) for class_id in member.class_ids]
    return [
        image_name(places[label], member.classes[label], member.name, label, number) for label, number in batch.items
    ]


def _masks(
    result: Inverted, settings: InversionSettings, ratios: Sequence[float], grid: list[int] | None
) -> dict[str, list[str]]:
    """Return the masks of all images as text, by ratio."""
    found = {}
    for ratio in [*([0.0] if settings.prune_layers else []), *ratios]:
        mask = mask_of_record(result.record, grid[0] * grid[1], ratio)
        found[mask_key(ratio)] = [encode_mask(row) for row in mask]
    return found


def _write(
    pool: Pool,
    batch: _Batch,
    member: Teacher,
    names: Sequence[str],
    result: Inverted,
    masks: Mapping[str, Sequence[str]],
    seed: int,
) -> list[PoolImage]:
    """Write the images of a batch and return their entries."""
    entries = []
    for i, (name, (label, _)) in enumerate(zip(names, batch.items, strict=True)):
        write_image(pool.folder, name, result.images[i])
        entries.append(
            PoolImage(
                name,
                pool.class_ids.index(member.class_ids[label]),
                member.name,
                label,
                round(float(result.losses[i]), 6),
                bool(result.correct[i]),
                seed,
                result.step,
                {key: texts[i] for key, texts in masks.items()},
            )
        )
    return entries


def _line(progress: Progress, where: str, batches_left: int) -> str:
    steps = progress.iterations - progress.step + batches_left * progress.iterations
    terms = ', '.join(f'{name} {value:.3f}' for name, value in progress.terms.items())
    return (
        f'{where}: iteration {progress.step}/{progress.iterations}, loss {progress.loss:.3f} ({terms}), '
        f'{progress.rate:.2f} it/s, {_duration(steps / progress.rate)} left'
    )


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours} h {minutes:02d} min' if hours else f'{minutes} min {seconds:02d} s' if minutes else f'{seconds} s'
