// What a caller sees of itself: what is left of each limit, use and cost, and its key.
import { query, useAnswer } from "../api.js";
import { money, number } from "../format.js";
import { html, useMemo } from "../lib.js";
import { Stacked } from "../parts/chart.js";
import { Limits } from "../parts/limits.js";
import { Shown } from "../parts/status.js";
import { Table } from "../parts/table.js";
import { bounds, pieces } from "../period.js";
import { byName } from "../series.js";
import { t } from "../texts.js";
import { OwnKey } from "./own-key.js";

export function Mine() {
  const span = useMemo(() => bounds("month", new Date()), []);
  const usage = useAnswer(`/gateway/usage/me${query({ by: "model", ...span })}`, 30_000);
  const days = useAnswer(`/gateway/usage/me${query({ by: "model", every: "day", ...span })}`, 60_000);
  const limits = useAnswer("/gateway/limits/me", 10_000);
  const columns = [
    { head: t("dimension.model"), cell: (/** @type {any} */ line) => line.model },
    ...["requests", "input_tokens", "output_tokens"].map((name) => ({
      head: t(/** @type {any} */ (`column.${name}`)), right: true, cell: (/** @type {any} */ line) => number(line[name]) })),
    { head: t("column.cost_usd"), right: true, cell: (/** @type {any} */ line) => money(line.cost_usd) },
  ];
  return html`<h1>${t("nav.mine")}</h1>
    <h2>${t("mine.limits")}</h2><${Shown} of=${limits}>${(/** @type {any} */ data) => html`<${Limits} lines=${data.limits} />`}<//>
    <h2>${t("mine.usage")}</h2><${Shown} of=${days}>${(/** @type {any} */ data) => html`<${Chart} lines=${data.lines} times=${pieces(span.since, span.until, "day")} />`}<//>
    <${Shown} of=${usage}>${(/** @type {any} */ data) => html`
      <${Table} caption=${t("mine.usage")} columns=${columns} rows=${data.lines} id=${(/** @type {any} */ line) => line.model} />`}<//>
    <h2>${t("mine.key")}</h2><${OwnKey} model=${usage.data?.lines[0]?.model} />`;
}

/** The cost of each day by model. @param {{lines: any[], times: number[]}} props */
function Chart({ lines, times }) {
  const series = useMemo(() => byName(lines, "model", "cost_usd", times), [lines]);
  return lines.length > 0 && html`<${Stacked} title=${t("column.cost_usd")} times=${times} series=${series} unit=${money} />`;
}
