"""Colours and typography of a report: one palette for figures and page, told apart also by the colour-blind."""

from __future__ import annotations

INK, MUTED, GRID, PAPER = "#1f2933", "#6b7785", "#e1e5ea", "#ffffff"
COLORS = ("#0b66a3", "#c4500c", "#00795a", "#8a4c9c", "#9a7400", "#5b6670")
"""Blue, vermilion, green, purple, ochre, grey after Okabe & Ito (2008), dark enough for lines on white."""
_DARK_COLORS = ("#5db6f0", "#ff9f5e", "#3ccf9f", "#d49ee6", "#e3bf4b", "#aab4be")

VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid", PAPER: "--paper"} | {
    color: f"--c{number}" for number, color in enumerate(COLORS)
}
"""Colour in a figure -> variable of the page that takes its place, so that figures follow light and dark."""

_LIGHT = {name: color for color, name in VARIABLES.items()} | {"--back": "#f6f7f9", "--good": COLORS[2]}
_DARK = {
    "--ink": "#e6e9ed",
    "--muted": "#98a3af",
    "--grid": "#343c46",
    "--paper": "#1b2027",
    "--back": "#13171c",
    "--good": _DARK_COLORS[2],
} | {f"--c{number}": color for number, color in enumerate(_DARK_COLORS)}


def _values(colors: dict[str, str]) -> str:
    return " ".join(f"{name}: {color};" for name, color in colors.items())


STYLE = f"""
:root {{ color-scheme: light dark; {_values(_LIGHT)}
  --font: system-ui, -apple-system, "Segoe UI", "Helvetica Neue", "Noto Sans", Arial, sans-serif; }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ {_values(_DARK)} }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: var(--back); color: var(--ink); font: 16px/1.55 var(--font); }}
main {{ max-width: 70rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }}
h1 {{ font-size: 1.75rem; line-height: 1.2; font-weight: 650; margin: 0 0 .3rem; overflow-wrap: anywhere; }}
header p {{ margin: 0 0 1.6rem; max-width: none; color: var(--muted); overflow-wrap: anywhere; }}
h2 {{ font-size: 1.2rem; font-weight: 650; margin: 0 0 .9rem; }}
p {{ margin: 0 0 .8rem; max-width: 46rem; }}
.facts {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(9.2rem, 1fr)); gap: 1px; margin: 0 0 1rem;
  background: var(--grid); border: 1px solid var(--grid); border-radius: 8px; overflow: hidden; }}
.facts div {{ background: var(--paper); padding: .8rem 1rem .7rem; }}
.facts dt {{ font-size: .8rem; color: var(--muted); }}
.facts dd {{ margin: 0; font-size: 1.35rem; font-weight: 620; font-variant-numeric: tabular-nums; }}
.verdicts {{ list-style: none; margin: 0 0 1.4rem; padding: .5rem 1.1rem; background: var(--paper);
  border: 1px solid var(--grid); border-radius: 8px; }}
.verdicts li {{ display: flex; gap: .8rem; padding: .5rem 0; }}
.verdicts li + li {{ border-top: 1px solid var(--grid); }}
.verdicts p {{ margin: 0; max-width: none; }}
.sign {{ flex: none; width: 1.45rem; height: 1.45rem; margin-top: .05rem; border-radius: 50%; color: var(--paper);
  font-size: .85rem; font-weight: 700; line-height: 1.45rem; text-align: center; background: var(--muted); }}
.good .sign {{ background: var(--good); }}
.warning .sign {{ background: var(--c1); }}
nav {{ display: flex; flex-wrap: wrap; gap: .2rem 1.3rem; margin: 0 0 1.8rem; font-size: .92rem; }}
a {{ color: var(--c0); text-decoration: none; }}
a:hover {{ text-decoration: underline; }}
section {{ background: var(--paper); border: 1px solid var(--grid); border-radius: 8px; padding: 1.4rem 1.5rem 1rem;
  margin: 0 0 1.2rem; }}
.figures {{ display: grid; grid-template-columns: 1fr 1fr; gap: 1.2rem 1.8rem; margin: 0 0 1rem; }}
figure {{ margin: 0; min-width: 0; break-inside: avoid; }}
figure.full {{ grid-column: 1 / -1; }}
figure svg, figure img {{ display: block; width: 100%; height: auto; }}
figure.full svg, figure.full img {{ max-width: 60rem; }}
figcaption {{ font-size: .86rem; line-height: 1.45; color: var(--muted); margin-top: .35rem; max-width: 46rem;
  overflow-wrap: anywhere; }}
code {{ font: .92em ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; white-space: nowrap; }}
.wide {{ overflow-x: auto; margin: 0 0 1rem; }}
table {{ border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }}
caption {{ text-align: left; font-weight: 600; padding: 0 0 .35rem; }}
th, td {{ padding: .28rem 1.5rem .28rem 0; border-bottom: 1px solid var(--grid); text-align: left;
  vertical-align: top; }}
th {{ font-weight: 600; font-size: .82rem; color: var(--muted); vertical-align: bottom; }}
td {{ overflow-wrap: anywhere; }}
td:first-child {{ overflow-wrap: normal; }}
td.number {{ white-space: nowrap; overflow-wrap: normal; }}
details {{ margin: 0 0 .9rem; }}
summary {{ cursor: pointer; color: var(--c0); font-size: .92rem; padding: .1rem 0 .4rem; }}
footer {{ color: var(--muted); font-size: .85rem; }}
@media (max-width: 48rem) {{ .figures {{ grid-template-columns: 1fr; }} main {{ padding: 1.2rem .8rem; }} }}
@media print {{
  @page {{ margin: 14mm; }}
  body {{ background: #fff; font-size: 10.5pt; }}
  main {{ max-width: none; padding: 0; }}
  nav {{ display: none; }}
  section, .verdicts, .facts {{ border-radius: 0; }}
  section {{ border: 0; border-top: 1px solid var(--grid); padding: 1rem 0; }}
  h2 {{ break-after: avoid; }}
}}
"""
