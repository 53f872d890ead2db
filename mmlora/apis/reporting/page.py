"""The page: one HTML file with its style in it, that loads nothing and runs nothing.

Whatever comes from files is escaped: by jinja2 in the template, by ``Markup.format`` in what sections build themselves.
The content security policy of the page forbids scripts and requests even if something slipped through.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jinja2 import Environment
from markupsafe import Markup
from PIL import Image


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Attributes:
        key: Its name in links.
        title: Its heading.
        body: Its content.
    """

    key: str
    title: str
    body: Markup


@dataclass(frozen=True)
class Missing:
    """A section that cannot be made.

    Attributes:
        title: Its heading.
        why: What is not there, and how to get it.
        broken: Whether something is there that cannot be read.
    """

    title: str
    why: str
    broken: bool = False


def render(title: str, sections: Sequence[Section], missing: Sequence[Missing], foot: str) -> str:
    """Return the page as HTML.

    Args:
        title: Its title.
        sections: What is on it.
        missing: What is not.
        foot: Its last line.
    """
    template = Environment(autoescape=True).from_string(_TEMPLATE)
    return template.render(title=title, sections=sections, style=Markup(_STYLE), foot=foot,
                           broken=[one for one in missing if one.broken],
                           missing=[one for one in missing if not one.broken])


def table(head: Sequence[str], rows: Sequence[Sequence[object]], numbers: Sequence[int] = ()) -> Markup:
    """Return a table.

    Args:
        head: Its columns.
        rows: Its cells.
        numbers: Places of the columns that are set to the right.
    """
    def cells(kind: str, row: Sequence[object]) -> Markup:
        return Markup('').join(
            Markup('<{0}{1}>{2}</{0}>').format(kind, Markup(' class="num"') if i in numbers else '', cell)
            for i, cell in enumerate(row))

    body = Markup('').join(Markup('<tr>{}</tr>').format(cells('td', row)) for row in rows)
    return Markup('<div class="scroll"><table><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>').format(
        cells('th', head), body)


def facts(pairs: Sequence[tuple[str, object]]) -> Markup:
    """Return names and values."""
    return Markup('<dl class="facts">{}</dl>').format(Markup('').join(
        Markup('<div><dt>{}</dt><dd>{}</dd></div>').format(name, value) for name, value in pairs))


def gallery(cards: Sequence[tuple[np.ndarray | None, str, Markup]]) -> Markup:
    """Return pictures with captions.

    Args:
        cards: Pixels ``(H, W, 3)`` uint8 or None, what the picture shows in words, and its caption.
    """
    def card(pixels: np.ndarray | None, alt: str, caption: Markup) -> Markup:
        picture = Markup('<div class="none">no picture</div>') if pixels is None else Markup(
            '<img alt="{}" src="data:image/png;base64,{}">').format(alt, png(pixels))
        return Markup('<li>{}<p>{}</p></li>').format(picture, caption)

    return Markup('<ul class="gallery">{}</ul>').format(Markup('').join(card(*one) for one in cards))


def png(pixels: np.ndarray) -> str:
    """Return pixels as PNG in base64."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, 'PNG', optimize=True)
    return base64.b64encode(content.getvalue()).decode()


_TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>{{ title }}</title>
<link rel="icon" href="data:,">
<style>{{ style }}</style>
</head>
<body>
<header><h1>{{ title }}</h1>
<nav aria-label="Sections"><ul>{% for one in sections %}<li><a href="#{{ one.key }}">{{ one.title }}</a></li>
{% endfor %}</ul></nav></header>
<main>
{% if broken %}<section class="warning" role="alert"><h2>Cannot be read</h2><ul>
{% for one in broken %}<li><b>{{ one.title }}</b>: {{ one.why }}</li>
{% endfor %}</ul></section>{% endif %}
{% for one in sections %}<section id="{{ one.key }}"><h2>{{ one.title }}</h2>
{{ one.body }}
</section>
{% endfor %}
{% if missing %}<section id="missing"><h2>Not on this page</h2><ul>
{% for one in missing %}<li><b>{{ one.title }}</b>: {{ one.why }}</li>
{% endfor %}</ul></section>{% endif %}
</main>
<footer>{{ foot }}</footer>
</body>
</html>
"""

_STYLE = """
:root{--bg:#fff;--ink:#1d2430;--soft:#5a6472;--line:#dfe3e9;--card:#f6f7f9;--accent:#1f5fbf;--good:#1d7f4f;--bad:#b3261e;
--warn:#fdf1dc;--c0:#1f6fd1;--c1:#d9730d;--c2:#2a8f57;--c3:#a4399c;--c4:#9a7b00;--c5:#5b6b7f;--on:#fff}
@media (prefers-color-scheme:dark){:root{--bg:#14181f;--ink:#e6e9ee;--soft:#a3adba;--line:#323a46;--card:#1d232c;
--accent:#8ab8ff;--good:#6fd39b;--bad:#ff8f85;--warn:#3b2e15;--c0:#6aa8f7;--c1:#f2a057;--c2:#63c98f;--c3:#d98ad2;
--c4:#d9bd4a;--c5:#9aa9bb;--on:#0d1015}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif}
header,main,footer{max-width:72rem;margin:0 auto;padding:0 1.25rem}
header{padding-top:2rem}
h1{font-size:1.7rem;line-height:1.25;margin:0 0 .6rem;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:0 0 .9rem}
h3{font-size:1rem;margin:1.4rem 0 .5rem}
nav ul{list-style:none;display:flex;flex-wrap:wrap;gap:.3rem 1.1rem;margin:0;padding:0 0 1rem;
border-bottom:1px solid var(--line)}
a{color:var(--accent);text-underline-offset:2px}
section{padding:1.6rem 0 .4rem}
section+section{border-top:1px solid var(--line)}
section.warning{background:var(--warn);border:1px solid var(--c1);border-radius:.5rem;padding:1rem 1.25rem;
margin-top:1rem}
p{margin:.4rem 0 .8rem;max-width:46rem}
.note,footer,figcaption+ul,#missing{color:var(--soft)}
.note{font-size:.92rem}
footer{font-size:.85rem;padding-top:1rem;padding-bottom:2rem}
.facts{display:grid;grid-template-columns:repeat(auto-fill,minmax(15rem,1fr));gap:.7rem 1.5rem;margin:0 0 1rem}
.facts div{min-width:0}
dt{font-size:.82rem;color:var(--soft)}
dd{margin:0;overflow-wrap:anywhere}
.big{display:flex;flex-wrap:wrap;gap:.8rem;margin:0 0 1.2rem;padding:0;list-style:none}
.big li{background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:.6rem 1rem;min-width:9rem}
.big b{display:block;font-size:1.5rem;font-variant-numeric:tabular-nums;line-height:1.3}
.big span{font-size:.85rem;color:var(--soft)}
.scroll{overflow-x:auto;max-width:100%}
table{border-collapse:collapse;font-size:.92rem;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.35rem .9rem .35rem 0;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600;color:var(--soft);font-size:.85rem;white-space:nowrap}
.num{text-align:right}
pre{background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:.8rem 1rem;overflow-x:auto;
font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;margin:.4rem 0 1rem}
code{font:.92em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr));gap:1.2rem 1.6rem}
figure{margin:0 0 1.2rem;min-width:0}
figcaption{font-weight:600;font-size:.95rem;margin-bottom:.2rem}
svg{display:block;width:100%;height:auto;max-width:46rem}
svg text{fill:var(--ink);font:12px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
svg .tick{fill:var(--soft)}svg .label{fill:var(--soft);font-size:12.5px}svg .small{font-size:10px}
svg .middle{text-anchor:middle}svg .end{text-anchor:end}svg .on{fill:var(--on)}
.grid{stroke:var(--line)}.axis{stroke:var(--soft)}.edge{fill:none;stroke:var(--line)}
.line{fill:none;stroke-width:2;stroke-linejoin:round}
.mean{stroke:var(--ink);stroke-width:2}.band{fill:var(--c1);fill-opacity:.35}
.cell.right{fill:var(--c0)}.cell.wrong{fill:var(--c1)}
.line.c0{stroke:var(--c0)}.line.c1{stroke:var(--c1)}.line.c2{stroke:var(--c2)}.line.c3{stroke:var(--c3)}
.line.c4{stroke:var(--c4)}.line.c5{stroke:var(--c5)}
.bar.c0,.dot.c0{fill:var(--c0)}.bar.c1,.dot.c1{fill:var(--c1)}.bar.c2,.dot.c2{fill:var(--c2)}
.bar.c3,.dot.c3{fill:var(--c3)}.bar.c4,.dot.c4{fill:var(--c4)}.bar.c5,.dot.c5{fill:var(--c5)}
.key{display:inline-block;width:.75rem;height:.75rem;border-radius:.15rem;margin-right:.35rem}
.key.c0{background:var(--c0)}.key.c1{background:var(--c1)}.key.c2{background:var(--c2)}.key.c3{background:var(--c3)}
.key.c4{background:var(--c4)}.key.c5{background:var(--c5)}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.1rem 1rem;margin:0;padding:0;font-size:.85rem}
.gallery{list-style:none;display:grid;grid-template-columns:repeat(auto-fill,minmax(8.2rem,1fr));gap:.9rem;
margin:.6rem 0;padding:0}
.gallery img,.gallery .none{width:100%;aspect-ratio:1;object-fit:contain;image-rendering:auto;background:var(--card);
border:1px solid var(--line);border-radius:.35rem;display:grid;place-items:center;color:var(--soft);font-size:.8rem}
.gallery p{font-size:.82rem;line-height:1.35;margin:.25rem 0 0;overflow-wrap:anywhere}
.good{color:var(--good)}.bad{color:var(--bad)}
summary{cursor:pointer;color:var(--accent)}
@media screen and (max-width:40rem){figure svg:not([style*=px]) text{font-size:16px}}
@media print{:root{--bg:#fff;--ink:#000;--soft:#444;--line:#ccc;--card:#fff;--accent:#000;--on:#fff;--c0:#1f6fd1;
--c1:#d9730d;--c2:#2a8f57;--c3:#a4399c;--c4:#9a7b00;--c5:#5b6b7f;--good:#1d7f4f;--bad:#b3261e;--warn:#fff}
nav{display:none}body{font-size:11pt}figure,.gallery li,tr{break-inside:avoid}h2{break-after:avoid}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""
