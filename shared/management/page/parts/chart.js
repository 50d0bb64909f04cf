// Charts: stacked over time, and lines over a number. uPlot is fetched when the first one is shown.
import { html, useEffect, useRef } from "../lib.js";
import { money, ticks } from "../format.js";
import { pieceName } from "../period.js";
import { t } from "../texts.js";

/** @type {Promise<any> | null} */
let loading = null;
const HEIGHT = 240;
const VALUES = 84; // pixels of the axis of values
const PER_TIME = 76; // pixels of one of the other
/** Between two values on an axis. */
const STEPS = Array.from({ length: 18 }, (_, i) => [1, 2, 5].map((step) => Number(`${step}e${i - 6}`))).flat();
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
  const place = usePlot((uPlot, width) => [options(uPlot, width, times, series, unit), [times, ...stacked(series)]], [times, series]);
  const about = series.map((one) => ({ name: one.name, href: one.href, value: unit(sum(one.values)) }));
  return html`<${Figure} title=${title} place=${place} about=${about} />`;
}

/**
 * @param {{title: string, xs: number[], series: {name: string, values: number[]}[], unit: (value: number) => string, label: string, mark: number}} props
 * `label` of the x axis; `mark`: the place on it whose values the legend has
 */
export function Lines({ title, xs, series, unit, label, mark }) {
  const place = usePlot((_, width) => [lineOptions(width, series, unit, label), [xs, ...series.map((one) => one.values)]], [xs, series]);
  const at = Math.max(0, xs.findIndex((x) => x >= mark));
  const about = series.map((one) => ({ name: one.name, value: unit(one.values[at]) }));
  return html`<${Figure} title=${title} place=${place} about=${about} />`;
}

/** The element of a chart, which is drawn once its library is there and again when `changed` does.
 * @param {(uPlot: any, width: number) => [any, any[]]} make @param {any[]} changed */
function usePlot(make, changed) {
  const place = useRef(/** @type {HTMLDivElement | null} */ (null));
  useEffect(() => {
    let chart = /** @type {any} */ (null);
    let gone = false;
    const watcher = new ResizeObserver(([entry]) => chart?.setSize({ width: entry.contentRect.width, height: HEIGHT }));
    library().then((uPlot) => {
      if (gone || !place.current) return;
      const [how, data] = make(uPlot, place.current.clientWidth);
      chart = new uPlot(how, data, place.current);
      watcher.observe(place.current);
    }, () => place.current?.replaceChildren(t("chart.failed")));
    return () => {
      gone = true;
      watcher.disconnect();
      chart?.destroy();
    };
  }, changed);
  return place;
}

/** @param {{title: string, place: any, about: {name: string, href?: string, value: string}[]}} props */
function Figure({ title, place, about }) {
  return html`<figure class="chart"><figcaption>${title}</figcaption>
    <div ref=${place} class="plot" role="img" aria-label=${`${title}: ${about.map((one) => `${one.name} ${one.value}`).join(", ")}`}></div>
    <ul class="legend">${about.map((one, i) => html`<li><svg width="12" height="12" aria-hidden="true"><rect width="12" height="12"
      fill=${COLOURS[i % COLOURS.length]} /></svg> ${one.href ? html`<a href=${one.href}>${one.name}</a>` : one.name} <b>${one.value}</b></li>`)}</ul></figure>`;
}

/** @param {number[]} values */
const sum = (values) => values.reduce((total, value) => total + value, 0);

/** The series on top of each other, the last one on the ground. @param {{values: number[]}[]} series */
function stacked(series) {
  const below = series.length ? series[0].values.map(() => 0) : [];
  return series.map((one) => one.values.map((value, i) => (below[i] += value))).reverse();
}

/** @param {any} uPlot @param {number} width @param {number[]} times @param {{name: string}[]} series @param {(value: number) => string} unit */
function options(uPlot, width, times, series, unit) {
  const length = times.length > 1 ? times[1] - times[0] : 86_400;
  const every = Math.ceil(times.length / Math.max(1, Math.floor((width - VALUES) / PER_TIME)));
  return {
    ...plain(width, unit), axes: [
      { ...inks(), size: length < 86_400 ? 56 : 40, splits: () => times.filter((_, i) => i % every === 0),
        values: (/** @type {any} */ _, /** @type {number[]} */ shown) => shown.map((start) => pieceName(start, length)) },
      valueAxis(unit),
    ],
    series: [{}, ...series.map((one, i) => ({
      label: one.name, stroke: COLOURS[i % COLOURS.length], fill: COLOURS[i % COLOURS.length],
      paths: uPlot.paths.bars({ size: [0.8, 60] }), points: { show: false },
    })).reverse()],
  };
}

/** @param {number} width @param {{name: string}[]} series @param {(value: number) => string} unit @param {string} label */
function lineOptions(width, series, unit, label) {
  const basis = plain(width, unit);
  return {
    ...basis, scales: { ...basis.scales, x: { time: false } }, axes: [{ ...inks(), label, labelSize: 20 }, valueAxis(unit)],
    series: [{}, ...series.map((one, i) => ({ label: one.name, stroke: COLOURS[i % COLOURS.length], width: 2, points: { show: false } }))],
  };
}

/** What all charts have. @param {number} width @param {(value: number) => string} unit */
const plain = (width, unit) => ({
  width, height: HEIGHT, legend: { show: false }, cursor: { drag: { x: false, y: false } },
  scales: { y: { range: (/** @type {any} */ _, /** @type {number} */ __, /** @type {number} */ top) => [0, top || (unit === money ? 0.01 : 10)] } },
});

function inks() {
  const style = getComputedStyle(document.body);
  return { stroke: style.getPropertyValue("--ink-2"), grid: { stroke: style.getPropertyValue("--line"), width: 1 } };
}

/** @param {(value: number) => string} unit money, or what is counted in whole numbers */
const valueAxis = (unit) => ({
  ...inks(), size: VALUES, incrs: STEPS.filter((step) => unit === money || step >= 1),
  values: (/** @type {any} */ _, /** @type {number[]} */ shown, /** @type {any} */ __, /** @type {any} */ ___, /** @type {number} */ step) =>
    shown.map(ticks(step, unit === money)),
});
