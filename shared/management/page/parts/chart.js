// Stacked charts. uPlot is fetched when the first one is shown.
import { html, useEffect, useRef } from "../lib.js";
import { compact } from "../format.js";
import { language, utc } from "../preferences.js";
import { t } from "../texts.js";

/** @type {Promise<any> | null} */
let loading = null;
const HEIGHT = 240;
export const COLOURS = ["#2f6fd0", "#c4502e", "#2d8a57", "#8a4fb5", "#b8860b", "#127f92", "#c43d78", "#5b6b7f"];

function library() {
  loading ??= new Promise((done, failed) => {
    const script = document.createElement("script");
    script.src = new URL("../vendor/uPlot.iife.min.js", import.meta.url).href;
    script.onload = () => done(/** @type {any} */ (window).uPlot);
    script.onerror = () => failed(new Error("uPlot"));
    const style = document.createElement("link");
    style.rel = "stylesheet";
    style.href = new URL("../vendor/uPlot.min.css", import.meta.url).href;
    document.head.append(style, script);
  });
  return loading;
}

/**
 * @param {{title: string, times: number[], series: {name: string, values: number[], href?: string}[], unit: (value: number) => string}} props
 * times in seconds since 1970; `href`: where a click on the name leads
 */
export function Stacked({ title, times, series, unit }) {
  const place = useRef(/** @type {HTMLDivElement | null} */ (null));
  useEffect(() => {
    let chart = /** @type {any} */ (null);
    let gone = false;
    const watcher = new ResizeObserver(([entry]) => chart?.setSize({ width: entry.contentRect.width, height: HEIGHT }));
    library().then((uPlot) => {
      if (gone || !place.current) return;
      chart = new uPlot(options(uPlot, place.current.clientWidth, series, unit), [times, ...stacked(series)], place.current);
      watcher.observe(place.current);
    }, () => place.current?.replaceChildren(t("chart.failed")));
    return () => {
      gone = true;
      watcher.disconnect();
      chart?.destroy();
    };
  }, [times, series]);
  return html`<figure class="chart"><figcaption>${title}</figcaption>
    <div ref=${place} class="plot" role="img" aria-label=${`${title}: ${series.map((one) => `${one.name} ${unit(sum(one.values))}`).join(", ")}`}></div>
    <ul class="legend">${series.map((one, i) => html`<li><svg width="12" height="12" aria-hidden="true"><rect width="12" height="12"
      fill=${COLOURS[i % COLOURS.length]} /></svg> ${one.href ? html`<a href=${one.href}>${one.name}</a>` : one.name} <b>${unit(sum(one.values))}</b></li>`)}</ul></figure>`;
}

/** @param {number[]} values */
const sum = (values) => values.reduce((total, value) => total + value, 0);

/** The series on top of each other, the last one on the ground. @param {{values: number[]}[]} series */
function stacked(series) {
  const below = series.length ? series[0].values.map(() => 0) : [];
  return series.map((one) => one.values.map((value, i) => (below[i] += value))).reverse();
}

/** @param {any} uPlot @param {number} width @param {{name: string}[]} series @param {(value: number) => string} unit */
function options(uPlot, width, series, unit) {
  const ink = getComputedStyle(document.body).getPropertyValue("--ink-2");
  const grid = { stroke: getComputedStyle(document.body).getPropertyValue("--line"), width: 1 };
  const day = new Intl.DateTimeFormat(language(), { month: "short", day: "numeric", ...(utc() && { timeZone: "UTC" }) });
  const hour = new Intl.DateTimeFormat(language(), { hour: "2-digit", minute: "2-digit", ...(utc() && { timeZone: "UTC" }) });
  return {
    width, height: HEIGHT, legend: { show: false }, cursor: { drag: { x: false, y: false } }, scales: { y: { range: (/** @type {any} */ _, /** @type {number} */ __, /** @type {number} */ top) => [0, top || 1] } },
    axes: [
      { stroke: ink, grid, values: (/** @type {any} */ _, /** @type {number[]} */ ticks, /** @type {any} */ __, /** @type {any} */ ___, /** @type {number} */ step) =>
        ticks.map((tick) => (step < 86400 ? hour : day).format(tick * 1000)) },
      { stroke: ink, grid, size: 84, values: (/** @type {any} */ _, /** @type {number[]} */ ticks) => ticks.map((tick) => (unit === compact ? compact(tick) : unit(tick))) },
    ],
    series: [{}, ...series.map((one, i) => ({
      label: one.name, stroke: COLOURS[i % COLOURS.length], fill: COLOURS[i % COLOURS.length],
      paths: uPlot.paths.bars({ size: [0.8, 60] }), points: { show: false },
    })).reverse()],
  };
}
