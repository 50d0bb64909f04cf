// The lines of a report as series of a chart.
import { startOf } from "./period.js";
import { t } from "./texts.js";

/** @typedef {{name: string, values: number[], value?: string}} Series `value`: by which a click filters */

const MOST = 7; // the others are summed

/** @param {any} line @param {string} by */
export const nameOf = (line, by) => (by === "key" && line.name) || line[by] || t("overview.none");

/** The largest values of a dimension, and the others. @param {any[]} lines @param {string} by @param {string} measure @param {number[]} times @returns {Series[]} */
export function byName(lines, by, measure, times) {
  const places = new Map(times.map((time, i) => [time, i]));
  /** @type {Map<string, {name: string, total: number, values: number[]}>} */
  const all = new Map();
  for (const line of lines) {
    const one = all.get(line[by]) ?? { name: nameOf(line, by), total: 0, values: times.map(() => 0) };
    all.set(line[by], one);
    one.total += line[measure] ?? 0;
    const place = places.get(startOf(line.period));
    if (place !== undefined) one.values[place] += line[measure] ?? 0;
  }
  const sorted = [...all].sort((a, b) => b[1].total - a[1].total);
  const shown = sorted.slice(0, MOST).map(([value, one]) => ({ name: one.name, values: one.values, value }));
  if (sorted.length <= MOST) return shown;
  const rest = times.map((_, i) => sorted.slice(MOST).reduce((sum, [, one]) => sum + one.values[i], 0));
  return [...shown, { name: t("overview.others"), values: rest }];
}

/** Tokens by their class: each token once. @param {any[]} lines @param {number[]} times @returns {Series[]} */
export function byClass(lines, times) {
  const places = new Map(times.map((time, i) => [time, i]));
  /** @type {[import("./texts.js").Key, (line: any) => number][]} */
  const classes = [
    ["class.input", (line) => line.input_tokens - line.cached_input_tokens], ["column.cached_input_tokens", (line) => line.cached_input_tokens],
    ["class.output", (line) => line.output_tokens - line.reasoning_tokens], ["column.reasoning_tokens", (line) => line.reasoning_tokens],
  ];
  return classes.map(([text, of]) => {
    const values = times.map(() => 0);
    for (const line of lines) {
      const place = places.get(startOf(line.period));
      if (place !== undefined) values[place] += of(line);
    }
    return { name: t(text), values };
  });
}
