#!/usr/bin/env python
"""Few-shot benchmark on scripts that pre-training never saw: ``python tools/eval_episodes.py [options]``."""

import argparse

from mmengine.config import Config

import mmlora  # noqa: F401  (first: it makes what follows importable on today's stack)
from mmlora.apis.episodes import glyph_benchmark


def main(argv: list[str] | None = None) -> None:
    """Evaluate from the command line."""
    parser = argparse.ArgumentParser(description='Few-shot accuracy of frozen features on letters of unseen scripts')
    parser.add_argument('config', nargs='?', default='configs/glyphs/vit-micro_muon-10e_glyphs.py')
    parser.add_argument('checkpoint', nargs='?', default='mmlora://vit-micro_glyphs')
    parser.add_argument('--split', choices=['val', 'test'], default='test')
    parser.add_argument('--episodes', type=int, help='only the first so many of the committed episodes')
    args = parser.parse_args(argv)
    for row in glyph_benchmark(Config.fromfile(args.config), args.checkpoint, args.split, args.episodes):
        print(row)


if __name__ == '__main__':
    main()
