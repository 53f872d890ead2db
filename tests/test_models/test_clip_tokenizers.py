"""Tokenizers: the published numbers, the published split, a made-up vocabulary, and bad prompts."""

import gzip
import json
import random
import sys

import clip_tiny
import pytest
from mmpretrain.registry import TOKENIZER

from mmlora.models.clip import CLIPTokenizer, WordTokenizer
from mmlora.models.clip.tokenizers import bpe
from mmlora.registry import TOKENIZERS

MERGES = ['l o', 'lo w</w>', 'e r</w>', 'n e', 'ne w', 'new er</w>', 'lo w']


@pytest.fixture
def vocabulary(tmp_path):
    path = tmp_path / 'merges.txt'
    path.write_text('\n'.join(['#version: 0.2', *MERGES, '']), encoding='utf-8')
    return path


@pytest.fixture
def toy(vocabulary):
    return CLIPTokenizer(vocabulary, num_merges=None)


class TestCLIPTokenizer:
    def test_published_numbers(self):
        pytest.importorskip('open_clip')
        expected = json.loads((clip_tiny.FOLDER / 'tokenizer.json').read_text())
        tokenizer = CLIPTokenizer()
        assert (tokenizer.vocab_size, tokenizer.start, tokenizer.end) == (
            expected['vocab_size'], expected['sot'], expected['eot'])
        assert len(expected['prompts']) == 300
        for prompt, ids in zip(expected['prompts'], expected['ids'], strict=True):
            (row,) = tokenizer(prompt).tolist()
            assert row == ids, prompt
        rows = tokenizer(expected['prompts'])
        longest = max(map(len, expected['ids']))
        assert rows.tolist() == [ids + [0] * (longest - len(ids)) for ids in expected['ids']]

    def test_words_are_those_of_the_published_pattern(self):
        regex = pytest.importorskip('regex')
        pattern = regex.compile(
            r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", regex.IGNORECASE)
        draw = random.Random(0)
        characters = "abz'stredvml0129 .,!?-_½²Ⅷéßñ中文字кирا한🙂\u0301\u200d£€½"
        for _ in range(3000):
            text = ' '.join(''.join(draw.choice(characters) for _ in range(12)).split())
            assert bpe.split_words(text) == pattern.findall(text), text
        assert bpe.split_words("it's 12's!") == ['it', "'s", '1', '2', "'s", '!']

    def test_merges_by_hand(self, toy):
        # 512 symbols of single bytes, then one for each merge in the order of the file.
        single = {character: i for i, character in enumerate(bpe.printable_bytes().values())}
        assert toy.encode('low') == [513]
        assert toy.encode('LOW  lower') == [513, 518, 514]
        assert toy.encode('newer') == [517]
        assert toy.encode('lone') == [512, single['n'], 256 + single['e']]
        assert toy('low').tolist() == [[519, 513, 520]] and toy.vocab_size == 521
        assert toy(['low', 'low newer'])[0].tolist() == [519, 513, 520, 0]

    def test_files(self, vocabulary, tmp_path):
        zipped = tmp_path / 'merges.txt.gz'
        zipped.write_bytes(gzip.compress(vocabulary.read_bytes()))
        assert CLIPTokenizer(zipped, num_merges=3).vocab_size == 512 + 3 + 2
        with pytest.raises(ValueError, match=r'holds 7 merges, 48894 are asked for: num_merges=None'):
            CLIPTokenizer(vocabulary)
        with pytest.raises(FileNotFoundError, match='nowhere'):
            CLIPTokenizer(tmp_path / 'nowhere')
        vocabulary.write_text('#\na b\na b c\n')
        with pytest.raises(ValueError, match="line 3 of .* is no pair of symbols: 'a b c'"):
            CLIPTokenizer(vocabulary, None)

    def test_without_open_clip_the_error_names_the_extra(self, monkeypatch):
        monkeypatch.setattr(bpe.importlib.util, 'find_spec', lambda name: None)
        with pytest.raises(ImportError, match=r'pip install "mmlora\[clip\]"'):
            CLIPTokenizer()

    def test_without_ftfy_plain_prompts_work_and_others_are_refused(self, toy, monkeypatch):
        monkeypatch.setitem(sys.modules, 'ftfy', None)
        assert toy.encode('a low Newer (lower).') == toy.encode('A  low newer (lower).')
        for text in ('na\u00efve', 'cats &amp; dogs', 'a\tb'):
            with pytest.raises(ImportError, match=r'ftfy.*mmlora\[clip\]'):
                toy.encode(text)

    def test_repairs(self, toy):
        pytest.importorskip('ftfy')
        assert bpe.clean(' Caf\u00c3\u00a9 &amp;amp; \u201cBar\u201d\n x ') == 'caf\u00e9 & "bar" x'

    def test_a_prompt_cannot_hold_special_tokens(self, toy):
        with pytest.raises(ValueError, match=r"the prompt 'a <\|endoftext\|>' writes out the special token"):
            toy.encode('a <|endoftext|>')

    def test_a_long_prompt_is_never_cut(self, toy):
        assert toy('low ' * 6, 8).shape == (1, 8)
        with pytest.raises(ValueError, match="the prompt 'low low low .*' has 9 tokens.*the context 8"):
            toy(['low', 'low ' * 7], 8)


class TestWordTokenizer:
    def test_numbers(self, tmp_path):
        words = ['a', 'Photo', 'of', '.']
        path = tmp_path / 'words.txt'
        path.write_text('\n'.join(words) + '\n\n')
        for tokenizer in (WordTokenizer(words), WordTokenizer(path), WordTokenizer(str(path))):
            assert tokenizer.encode('A photo of a.') == [1, 2, 3, 1, 4]
            assert tokenizer('photo').tolist() == [[5, 2, 6]] and tokenizer.vocab_size == 7

    def test_an_unknown_word_is_quoted(self):
        with pytest.raises(ValueError, match=r"'phote' of 'a phote' is not among the 2 words; near: \['photo'\]"):
            WordTokenizer(['a', 'photo']).encode('a phote')

    @pytest.mark.parametrize('words, message', [
        ([], 'must hold words'),
        (['a', 'A'], r"\['a'\] more than once"),
        (['two words'], "'two words', which is not one word"),
    ])  # fmt: skip
    def test_bad_vocabularies(self, words, message):
        with pytest.raises(ValueError, match=message):
            WordTokenizer(words)
        with pytest.raises(FileNotFoundError):
            WordTokenizer('no/such/file.txt')


@pytest.mark.parametrize('kind', ['CLIPTokenizer', 'mmlora.CLIPTokenizer'])
@pytest.mark.parametrize('registry', [TOKENIZERS, TOKENIZER])
def test_they_are_registered_here_and_in_mmpretrain(registry, kind, vocabulary):
    assert type(registry.build(dict(type=kind, vocabulary=vocabulary, num_merges=2))) is CLIPTokenizer
    if '.' not in kind:
        assert type(registry.build(dict(type='WordTokenizer', vocabulary=['a']))) is WordTokenizer
