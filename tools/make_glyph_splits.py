"""Write data_splits/glyphs/{train,val,test}.json from the fonts that matplotlib ships."""

import argparse
import json
from pathlib import Path

import mmlora  # noqa: F401  cures the stack before anything else is imported
from mmlora.datasets.glyph_splits import select_letters, split_document


def main() -> None:
    """Parse the arguments and write the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', type=Path, default=Path('data_splits/glyphs'))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for split, codes in select_letters()[0].items():
        document = split_document(split, codes, 'python tools/make_glyph_splits.py')
        classes = ',\n'.join('  ' + json.dumps(row) for row in document.pop('classes'))
        head = json.dumps(document, indent=1)[:-2]
        (args.out / f'{split}.json').write_text(f'{head},\n "classes": [\n{classes}\n ]\n}}\n', encoding='utf-8')
        print(f'{split}: {len(codes)} letters of {", ".join(document["scripts"])}')


if __name__ == '__main__':
    main()
