"""The style sheet of a report: light or dark as the reader's system asks, one column, tables that scroll.

Colours are chosen so that text has a contrast of at least 4.5 in both modes.
"""

from __future__ import annotations

STYLE = """
:root {
  color-scheme: light dark;
  --page: #ffffff; --text: #1b1f24; --soft: #57606a; --line: #d0d7de; --panel: #f6f8fa; --link: #0a58ca;
  --c0: #1f5fa8; --c1: #b5480f; --c2: #1b7a43; --c3: #7d3fb2; --c4: #8a6100; --c5: #b3246b; --mark: #c62828;
  --heat: 31, 95, 168;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14181d; --text: #e6edf3; --soft: #9da7b3; --line: #3d444d; --panel: #1d2229; --link: #79b8ff;
    --c0: #6cb0f5; --c1: #f5a06c; --c2: #69cf92; --c3: #c9a2f2; --c4: #e3c25a; --c5: #f291c0; --mark: #ff8a80;
    --heat: 108, 176, 245;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 16px/1.5 system-ui, sans-serif;
  overflow-wrap: anywhere; }
table { overflow-wrap: normal; }
main, header, nav { max-width: 60rem; margin: 0 auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; line-height: 1.25; overflow-wrap: anywhere; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
h3 { margin-top: 1.8rem; }
a { color: var(--link); }
a:focus-visible, summary:focus-visible, .scroll:focus-visible { outline: 3px solid var(--c0); outline-offset: 2px; }
.skip { position: absolute; left: -999px; }
.skip:focus { left: 1rem; top: 1rem; background: var(--page); padding: .5rem; }
.note { color: var(--soft); font-size: .9rem; max-width: 48rem; }
.scroll { position: relative; overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; margin: .6rem 0; }
.tall { max-height: 32rem; overflow-y: auto; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; }
caption { text-align: left; font-weight: 600; padding: .5rem .6rem; }
th, td { padding: .25rem .6rem; text-align: left; vertical-align: top; border-top: 1px solid var(--line); }
thead th { background: var(--panel); white-space: nowrap; }
th { font-weight: 600; }
.k { white-space: nowrap; }
.said { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
.r { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.bar { width: 34%; min-width: 7rem; }
.bar svg { display: block; width: 100%; height: 1.1rem; }
figure { margin: 1rem 0; }
figure > svg { width: 100%; max-width: 40rem; height: auto; display: block; }
svg text { fill: var(--text); font: 15px system-ui, sans-serif; }
svg .axis { stroke: var(--soft); } svg .grid { stroke: var(--line); }
ul.legend { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; font-size: .88rem; }
ul.legend svg { width: 2rem; height: .7rem; vertical-align: middle; margin-right: .4rem; }
details { margin: .5rem 0; } summary { cursor: pointer; color: var(--link); }
.sheet { display: grid; gap: 1rem; padding: 0; list-style: none; }
.sheet p { margin: 0 0 .3rem; overflow-wrap: anywhere; font-size: .9rem; }
.tiles { display: grid; grid-template-columns: repeat(4, 1fr); gap: 4px; }
@media (max-width: 36rem) { .tiles { grid-template-columns: repeat(2, 1fr); } }
.tiles img { width: 100%; height: auto; display: block; }
.heat td { text-align: right; font-variant-numeric: tabular-nums; }
code { overflow-wrap: anywhere; }
@media print { details { display: block; } .scroll { max-height: none; overflow: visible; } }
"""
