#include "worker/engine/report/page_style.h"

namespace teq::report {

const std::string_view kPageStyle = R"css(
:root {
  --paper: #fdfdfc; --card: #f5f6f6; --ink: #1b2026; --soft: #59636e; --rule: #dde1e5;
  --grid: #e8ebee; --result: #0b62b0; --plain: #bd5307; --float: #6b7580; --train: #a9c4de;
  --muted: #b9c0c8; --link: #0b62b0;
  --better4: #14599b; --better3: #5a9fd4; --better2: #a5cbe8; --better1: #dceaf6;
  --same: #f1f2f3;
  --worse1: #fceadb; --worse2: #f9c99b; --worse3: #ec9450; --worse4: #b04c04;
  --level0: #f1f4f3; --level1: #d5eae5; --level2: #a6d5ca; --level3: #67b6a5; --level4: #2a8575;
  --level5: #0b5548; --on-light: #1b2026; --on-dark: #ffffff;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --paper: #14171a; --card: #1c2024; --ink: #e4e7ea; --soft: #9aa4ae; --rule: #32383e;
    --grid: #262b30; --result: #68b0f2; --plain: #f0964f; --float: #98a2ac; --train: #2f5273;
    --muted: #555e67; --link: #7bbaf5;
    --better4: #82c1f7; --better3: #3f86c4; --better2: #27557f; --better1: #1d3347;
    --same: #23282d;
    --worse1: #3b2a1d; --worse2: #68421f; --worse3: #a8602a; --worse4: #f5a862;
    --level0: #20272a; --level1: #1d3b37; --level2: #1f5750; --level3: #27786c; --level4: #46a899;
    --level5: #93e3d3; --on-light: #e4e7ea; --on-dark: #101418;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif;
  font-variant-numeric: tabular-nums;
}
main { max-width: 1120px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 6px; font-weight: 650; overflow-wrap: anywhere; }
h2 { font-size: 20px; line-height: 1.3; margin: 0 0 10px; font-weight: 650; }
h3 { font-size: 15px; margin: 20px 0 8px; font-weight: 600; overflow-wrap: anywhere; }
h4 { font-size: 13px; margin: 0 0 2px; font-weight: 600; overflow-wrap: anywhere; }
h4 span { color: var(--result); font-weight: 500; float: right; }
p { margin: 0 0 10px; max-width: 76ch; }
a { color: var(--link); }
.label { color: var(--soft); font-size: 13px; margin: 0 0 6px; overflow-wrap: anywhere; }
.recipe { color: var(--soft); max-width: none; overflow-wrap: anywhere; }
.lede { font-size: 18px; line-height: 1.45; margin: 10px 0; overflow-wrap: anywhere; }
aside { border-left: 3px solid var(--plain); background: var(--card); padding: 10px 16px; margin: 18px 0 0; }
aside h2 { font-size: 14px; margin: 0 0 4px; }
aside ul { margin: 0; padding-left: 18px; overflow-wrap: anywhere; }
nav { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 20px 0 0; padding: 10px 0;
  border-top: 1px solid var(--rule); border-bottom: 1px solid var(--rule); font-size: 14px; }
nav a { text-decoration: none; }
nav a:hover { text-decoration: underline; }
section { margin: 40px 0 0; }
figure { margin: 18px 0 0; min-width: 0; }
figcaption { color: var(--soft); font-size: 14px; margin: 0 0 8px; max-width: 80ch; }
figcaption strong { color: var(--ink); font-weight: 600; }
.reading { margin: 0 0 8px; padding-left: 18px; max-width: 88ch; overflow-wrap: anywhere; }
.reading li { margin: 0 0 5px; }

.tiles { display: grid; grid-template-columns: repeat(4, 1fr); gap: 1px; margin: 0;
  background: var(--rule); border: 1px solid var(--rule); }
.tiles div { background: var(--paper); padding: 9px 12px; border-top: 3px solid transparent; }
.tiles .of-result { border-top-color: var(--result); }
.tiles .of-plain { border-top-color: var(--plain); }
.tiles .of-float { border-top-color: var(--float); }
.tiles dt { color: var(--soft); font-size: 12.5px; line-height: 1.3; }
.tiles dd { margin: 2px 0 0; }
.tiles b { font-size: 20px; font-weight: 600; white-space: nowrap; }
.tiles span { color: var(--soft); font-size: 12.5px; }
.facts { display: grid; grid-template-columns: max-content 1fr; gap: 3px 18px; margin: 0; font-size: 14px; }
.facts dt { color: var(--soft); }
.facts dd { margin: 0; overflow-wrap: anywhere; }
pre { margin: 0; padding: 12px 16px; background: var(--card); overflow-x: auto; font-size: 13px;
  line-height: 1.45; font-family: ui-monospace, Menlo, Consolas, "Liberation Mono", monospace; }

.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; }
caption { text-align: left; color: var(--soft); padding: 0 0 6px; }
th, td { padding: 3px 12px 3px 0; text-align: left; vertical-align: top; }
thead th { border-bottom: 1px solid var(--rule); color: var(--soft); font-weight: 500; vertical-align: bottom; }
tbody td { border-bottom: 1px solid var(--grid); }
.number { text-align: right; white-space: nowrap; }
details { margin: 8px 0 0; }
summary { cursor: pointer; color: var(--link); font-size: 13px; padding: 2px 0; }

.heat { width: 100%; max-width: 680px; border-collapse: separate; border-spacing: 1px; table-layout: fixed; font-size: 12px; }
.heat caption { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
.heat th { padding: 2px 4px 2px 0; text-align: right; color: var(--soft); font-weight: 500; border: 0; }
.heat thead th { text-align: center; padding: 0 0 3px; overflow-wrap: anywhere; line-height: 1.2; }
.heat th:first-child { text-align: right; padding-right: 6px; width: 44px; overflow-wrap: normal; }
.heat td { text-align: center; padding: 3px 0; border: 0; white-space: nowrap; overflow: hidden; }
.heat td:last-child { border-left: 4px solid var(--paper); }
.heat td.better4, .heat td.worse4, .heat td.level4, .heat td.level5 { color: var(--on-dark); }
.heat tfoot td, .heat tfoot th { border-top: 4px solid var(--paper); }
.better4 { background: var(--better4); } .better3 { background: var(--better3); }
.better2 { background: var(--better2); } .better1 { background: var(--better1); }
.same { background: var(--same); }
.worse1 { background: var(--worse1); } .worse2 { background: var(--worse2); }
.worse3 { background: var(--worse3); } .worse4 { background: var(--worse4); }
.level0 { background: var(--level0); fill: var(--level0); } .level1 { background: var(--level1); fill: var(--level1); }
.level2 { background: var(--level2); fill: var(--level2); } .level3 { background: var(--level3); fill: var(--level3); }
.level4 { background: var(--level4); fill: var(--level4); } .level5 { background: var(--level5); fill: var(--level5); }

.legend { display: flex; flex-wrap: wrap; gap: 3px 16px; color: var(--soft); font-size: 12.5px; margin: 6px 0; max-width: none; }
.legend span { display: inline-flex; align-items: center; gap: 6px; }
.legend .tile { padding: 0 7px; font-size: 11.5px; margin-right: -15px; color: var(--on-light); }
.legend .better4, .legend .worse4, .legend .level4, .legend .level5 { color: var(--on-dark); }
.key { width: 18px; height: 12px; flex: none; overflow: visible; }

.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 430px), 1fr)); gap: 0 36px; }
.pair figure { display: grid; grid-row: span 4; grid-template-rows: subgrid; align-content: start; }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 210px), 1fr)); gap: 14px 28px; }
.panels.roomy { grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)); }
.panels.wider { grid-template-columns: repeat(auto-fill, minmax(min(100%, 420px), 1fr)); gap: 16px 40px; }
.panel { min-width: 0; break-inside: avoid; }
.plot { display: block; overflow: visible; margin: 8px var(--right) 0 var(--left);
  width: calc(100% - var(--left) - var(--right)); }
.plot text { font-size: 11.5px; fill: var(--soft); }
.plot .tick { text-anchor: middle; }
.plot .side, .plot .row { text-anchor: end; }
.plot .row { fill: var(--ink); }
.plot .value { fill: var(--ink); }
.plot .name { text-anchor: end; }
.plot .name.plain { fill: var(--plain); }
.stretched { overflow: visible; }
.grid { stroke: var(--grid); stroke-width: 1; shape-rendering: crispEdges; }
.line { fill: none; stroke-width: 1.75; stroke-linejoin: round; vector-effect: non-scaling-stroke; }
.line.result { stroke: var(--result); } .line.plain { stroke: var(--plain); stroke-dasharray: 5 4; }
.line.train { stroke: var(--train); stroke-width: 1.25; } .line.float { stroke: var(--float); stroke-width: 1.25; }
.line.muted { stroke: var(--muted); }
.cloud { fill: none; stroke-width: 4; stroke-linecap: round; vector-effect: non-scaling-stroke; }
.cloud.result { stroke: var(--result); } .cloud.plain { stroke: var(--plain); } .cloud.muted { stroke: var(--muted); }
.dot { stroke-width: 1.75; }
.dot.result { fill: var(--result); stroke: var(--result); } .dot.plain { fill: var(--plain); stroke: var(--plain); }
.dot.muted { fill: var(--muted); stroke: var(--muted); } .dot.ink { fill: var(--paper); stroke: var(--ink); }
.dot.hollow { fill: var(--paper); } .dot.small { r: 2.5px; }
.dot.kept { fill: none; stroke: var(--ink); r: 6px; }
.span { stroke-width: 2; }
.span.result { stroke: var(--result); } .span.plain { stroke: var(--plain); } .span.muted { stroke: var(--muted); }
.span.halo, .stroke.halo { stroke: var(--paper); stroke-width: 4; stroke-opacity: 0.75; }
.span.ink, .stroke.ink { stroke: var(--ink); stroke-width: 1.25; }
.bar { fill: var(--result); }
@media (max-width: 700px) {
  main { padding: 20px 14px 40px; }
  h1 { font-size: 24px; }
  .lede { font-size: 16px; }
  .tiles { grid-template-columns: repeat(2, 1fr); }
  .tiles b { font-size: 18px; }
  .facts { grid-template-columns: 1fr; gap: 0; }
  .facts dd { margin: 0 0 8px; }
  .heat { font-size: 11px; }
  .heat th:first-child { width: 40px; }
  .panels { grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)); gap: 12px 16px; }
}
@media print {
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  body { font-size: 10.5pt; }
  main { max-width: none; padding: 0; }
  nav { display: none; }
  details:not([open]) { display: none; }
  :root { --paper: #ffffff; }
  h2, h3, h4, figcaption, .legend { break-after: avoid; }
  .pair, .pair figure { display: block; }
  tr, .tiles, .plot { break-inside: avoid; }
}
)css";

}  // namespace teq::report
