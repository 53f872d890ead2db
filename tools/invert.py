#!/usr/bin/env python
"""Synthesise images from the LoRAs of a hub: ``python tools/invert.py HUB --config CONFIG --out POOL [options]``."""

import argparse
import sys
from dataclasses import fields
from pathlib import Path

from mmengine.config import Config

import mmlora  # noqa: F401  (first: it makes what follows importable on today's stack)
from mmlora.apis.hub_teachers import open_teachers
from mmlora.apis.inversion_settings import KEEP, InversionSettings
from mmlora.apis.invert_hub import invert_hub
from mmlora.apis.pool_sheet import contact_sheet
from mmlora.models.batch_norm_prior import PRIORS, build_prior

DEFAULTS = InversionSettings()
NUMBERS = ('lr', 'ce_weight', 'bn_weight', 'tv_weight', 'l2_weight', 'prune_start', 'jitter', 'flip')


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description='Synthesise images from the LoRAs of a hub, without any data')
    parser.add_argument('hub', help='folder of the hub')
    parser.add_argument('--config', required=True, help='that of the hub: its backbone with weights')
    parser.add_argument('--out', type=Path, required=True, help='folder of the pool; an unfinished one is gone on with')
    parser.add_argument('--members', nargs='+', help='names of LoRAs; by default all')
    parser.add_argument('--per-class', type=int, default=20, help='images of each class of each LoRA')
    parser.add_argument('--batch-size', type=int, default=40, help='images that are synthesised together')
    parser.add_argument('--mask-ratios', type=float, nargs='*', default=[], help='such as 0.25 0.5 0.75')
    parser.add_argument('--prior', default='glyphs', help=f'{", ".join(PRIORS)} or none')
    parser.add_argument('--prior-checkpoint', help='weights of the prior: a path, or torchvision://resnet50')
    parser.add_argument('--prune-layers', type=int, nargs='*', default=[], help='from 0; -1 is the last')
    parser.add_argument('--prune-ratios', type=float, nargs='*', default=[], help='one for each of these layers')
    parser.add_argument('--iterations', type=int, default=DEFAULTS.iterations)
    parser.add_argument('--betas', type=float, nargs=2, default=DEFAULTS.betas)
    parser.add_argument('--keep', choices=KEEP, default=DEFAULTS.keep)
    parser.add_argument('--amp', action='store_true', help='run the classifier in bfloat16')
    for name in NUMBERS:
        parser.add_argument(f'--{name.replace("_", "-")}', type=float, default=getattr(DEFAULTS, name))
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--device', help='such as cuda:1; by default a GPU where there is one')
    parser.add_argument('--image-size', type=int, help='side, where the backbone does not say it')
    parser.add_argument('--save-every', type=int, default=100, help='iterations that a kill may cost')
    parser.add_argument('--report-every', type=int, default=100, help='iterations')
    parser.add_argument('--sheet', type=Path, help='PNG of some images with their masks; by default in the pool')
    return parser


def main(argv: list[str] | None = None) -> int:
    """Make a pool from the command line and return the exit status."""
    args = parser().parse_args(argv)
    try:
        settings = InversionSettings.from_dict({f.name: getattr(args, f.name) for f in fields(InversionSettings)})
        prior = build_prior(args.prior, args.prior_checkpoint)
        size = None if args.image_size is None else (args.image_size, args.image_size)
        pool = invert_hub(
            open_teachers(args.hub, Config.fromfile(args.config), args.device, size, args.members),
            args.out,
            args.per_class,
            args.batch_size,
            settings,
            prior,
            args.mask_ratios,
            args.seed,
            args.save_every,
            args.report_every,
            lambda text: print(text, flush=True),
        )
        ratios = [*([0.0] if settings.prune_layers else []), *sorted(set(args.mask_ratios) - {0.0})]
        print(contact_sheet(pool, args.sheet or args.out / 'sheet.png', ratios))
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('Stopped. The same command goes on.', file=sys.stderr)
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
