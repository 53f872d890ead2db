#!/usr/bin/env python
"""Write few-shot lists, the draws of CoOp and CLIP-LoRA, the lists of LoRA-Recycle, or the splits of Glyphs.

Examples::

    python tools/make_splits.py fewshot --dataset vtab1k --data-root data/vtab-1k --name eurosat --shots 1 2 5 10
    python tools/make_splits.py fewshot --dataset medfmc --data-root data/MedFMC --name endo --shots 1 --out my_lists
    python tools/make_splits.py fewshot --dataset fgvc --data-root data/FGVC --name cub --shots 1 2 4 8 16
    python tools/make_splits.py fewshot --list data/birds/train.txt --out data/birds/lists --shots 4 16
    python tools/make_splits.py fewshot --list data/images/train --out data/images/lists --shots 4
    python tools/make_splits.py coop --data-root data/coop --name dtd --sampling clip_lora --shots 1 16 --seeds 1 2 3
    python tools/make_splits.py metasplit --data-root data/cub --name cub --out filelists/cub
    python tools/make_splits.py glyphs
"""

import argparse
import json
import sys
import unicodedata
from pathlib import Path

import mmlora  # noqa: F401  (first: it cures what the imports below need)
from mmlora.apis.few_shot_indices import index_files
from mmlora.apis.meta_splits import meta_lists
from mmlora.apis.splits import few_shot_files, fgvc_sources, list_source, medfmc_sources, vtab_sources, write_lists
from mmlora.datasets.few_shot_rules import SAMPLINGS
from mmlora.datasets.glyph_combinations import combinations_document, words_of
from mmlora.datasets.glyph_splits import select_letters, split_document
from mmlora.datasets.meta_sets import META_SETS
from mmlora.io.atomic import write_text

OF_A_DATASET, OF_A_LIST = ('data_root', 'name'), ('classes', 'num_classes', 'multi_label', 'columns')
GLYPHS_COMMAND = 'python tools/make_splits.py glyphs'
GLYPHS_PROMPT = 'a picture of .'
PUBLISHED = {
    'vtab1k': (vtab_sources, 'data/vtab-1k'),
    'medfmc': (medfmc_sources, 'data/MedFMC'),
    'fgvc': (fgvc_sources, 'data/FGVC'),
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description='Write few-shot lists, draws of CoOp, or the splits of Glyphs')
    commands = parser.add_subparsers(dest='command', required=True)
    shot = commands.add_parser('fewshot', help='choose K images of each class, under the names of the published lists')
    shot.add_argument('--dataset', choices=sorted(PUBLISHED), help='a published data set')
    shot.add_argument('--data-root', help='its folder; by default data/vtab-1k, data/MedFMC or data/FGVC')
    shot.add_argument('--name', default='all', help='the set, such as eurosat or endo; by default all that are there')
    shot.add_argument('--list', help='a list of your own (.txt, .csv, .json), or a folder of one folder per class')
    shot.add_argument('--classes', nargs='+', default=[], help='names of the classes of that list')
    shot.add_argument('--num-classes', type=int, help='their number, where they have no names')
    shot.add_argument('--multi-label', action='store_true', help='each image of that list has any number of classes')
    shot.add_argument('--columns', nargs=2, default=['image', 'label'], help='columns, or JSON keys, of that list')
    shot.add_argument('--out', help='folder of the lists; by default beside those that they are chosen from')
    shot.add_argument('--shots', type=int, nargs='+', default=[1], help='images per class')
    shot.add_argument('--exps', type=int, default=5, help='how many lists of each')
    shot.add_argument('--seed', type=int, default=0, help='seed of all choices')
    shot.add_argument('--with-negatives', action='store_true', help='choose as many images without any class, too')
    shot.add_argument('--allow-fewer', action='store_true', help='of classes with too few images, take what there is')
    shot.add_argument('--force', action='store_true', help='replace lists that have other content')
    coop = commands.add_parser('coop', help='write which images CoOp or CLIP-LoRA draws from a set')
    coop.add_argument('--data-root', default='data/coop', help='folder of the sets')
    coop.add_argument('--name', default='all', help='the set, such as dtd; by default all that are there')
    coop.add_argument('--sampling', choices=sorted(SAMPLINGS), default='clip_lora', help='whose draw')
    coop.add_argument('--shots', type=int, nargs='+', default=[1, 2, 4, 8, 16], help='images per class')
    coop.add_argument('--seeds', type=int, nargs='+', default=[1, 2, 3], help='seeds of the draws')
    coop.add_argument('--out', help='folder of the files; by default that of the sets')
    coop.add_argument('--force', action='store_true', help='replace files that have other content')
    meta = commands.add_parser('metasplit', help='write meta_train.csv, meta_val.csv and meta_test.csv of LoRA-Recycle')
    meta.add_argument('--data-root', required=True, help='folder of the set; for all, what holds folders so named')
    meta.add_argument('--name', default='all', help=f'{", ".join(META_SETS)}; by default all that are there')
    meta.add_argument('--out', help='folder of the lists; by default that of the images')
    meta.add_argument('--force', action='store_true', help='replace lists that have other content')
    glyphs = commands.add_parser('glyphs', help='choose the letters of Glyphs from the fonts that matplotlib ships')
    glyphs.add_argument('--out', type=Path, default=Path('data_splits/glyphs'))
    glyphs.add_argument('--words', type=Path, default=Path('mmlora/assets/clip-micro_words.txt'),
                        help='file of the words of all names and of the prompt')
    args = parser.parse_args(argv)
    if args.command == 'fewshot' and bool(args.dataset) == bool(args.list):
        parser.error('give either --dataset, a published data set (--data-root is its folder), or --list, a folder '
                     'with one folder of images per class, or a list file (.txt, .csv, .json)')
    if args.command == 'fewshot' and args.list and not args.out:
        parser.error('--list needs --out')
    if args.command == 'fewshot':
        for name in OF_A_DATASET if args.list else OF_A_LIST:
            if getattr(args, name) != shot.get_default(name):
                parser.error(f'--{name.replace("_", "-")} goes with {"--dataset" if args.list else "--list"} alone')
    return args


def few_shot(args: argparse.Namespace) -> None:
    """Write few-shot lists."""
    if args.dataset:
        read, root = PUBLISHED[args.dataset]
        sources = read(args.data_root or root, args.name, args.out)
    else:
        sources = [list_source(args.list, args.out, classes=args.classes, num_classes=args.num_classes,
                               multi_label=args.multi_label, columns=tuple(args.columns))]
    files = {}
    for source in sources:
        own, notes = few_shot_files(source, args.shots, args.exps, seed=args.seed, with_negatives=args.with_negatives,
                                    allow_fewer=args.allow_fewer)
        files.update(own)
        for note in notes:
            print(note)
    written = set(write_lists(files, args.force))
    for path, text in files.items():
        lines = text.count('\n')
        print(f'{path}: {lines} images' + ('' if path in written else ', as it was'))


def coop(args: argparse.Namespace) -> None:
    """Write the draws of CoOp or CLIP-LoRA."""
    files = index_files(args.data_root, args.name, args.shots, args.seeds, args.sampling, args.out)
    written = set(write_lists(files, args.force))
    for path in files:
        print(f'{path}' + ('' if path in written else ', as it was'))


def metasplit(args: argparse.Namespace) -> None:
    """Write the lists of LoRA-Recycle."""
    files = meta_lists(args.data_root, args.name, args.out)
    written = set(write_lists(files, args.force))
    for path, text in files.items():
        lines = text.count('\n') - 1
        print(f'{path}: {lines} images' + ('' if path in written else ', as it was'))


def glyphs(args: argparse.Namespace) -> None:
    """Write train.json, val.json, test.json and combinations.json of Glyphs, and the words of their names."""
    letters = select_letters()[0]
    for split, codes in letters.items():
        document = split_document(split, codes, GLYPHS_COMMAND)
        classes = ',\n'.join('  ' + json.dumps(row) for row in document.pop('classes'))
        head = json.dumps(document, indent=1)[:-2]
        write_text(args.out / f'{split}.json', f'{head},\n "classes": [\n{classes}\n ]\n}}\n')
        print(f'{split}: {len(codes)} letters of {", ".join(document["scripts"])}')
        if split == 'train':
            document = combinations_document([unicodedata.name(chr(code)) for code in codes], GLYPHS_COMMAND)
            write_text(args.out / 'combinations.json', json.dumps(document, indent=1) + '\n')
            print(f'combinations: {len(document["val"])} letters for validation, {len(document["test"])} for tests')
    names = [unicodedata.name(chr(code)) for codes in letters.values() for code in codes]
    words = words_of([GLYPHS_PROMPT, *names])
    write_text(args.words, '\n'.join(words) + '\n')
    print(f'words: {len(words)}')


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    args = parse_args(argv)
    try:
        {'fewshot': few_shot, 'coop': coop, 'metasplit': metasplit, 'glyphs': glyphs}[args.command](args)
    except (ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
