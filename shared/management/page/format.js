// Numbers, money and times by the browser's locale.
import { language, utc } from "./preferences.js";

/** @param {number | null | undefined} value */
export const number = (value) => (value == null ? "–" : new Intl.NumberFormat(language(), { maximumFractionDigits: 2 }).format(value));

/** @param {number | null | undefined} value */
export const compact = (value) =>
  value == null ? "–" : new Intl.NumberFormat(language(), { notation: "compact", maximumFractionDigits: 1 }).format(value);

/** @param {number | null | undefined} value USD; amounts below one dollar have four significant digits */
export const money = (value) => {
  if (value == null) return "–";
  const digits = value !== 0 && Math.abs(value) < 1 ? Math.min(10, 3 - Math.floor(Math.log10(Math.abs(value)))) : 2;
  return new Intl.NumberFormat(language(), {
    style: "currency", currency: "USD", minimumFractionDigits: 2, maximumFractionDigits: digits,
  }).format(value);
};

/** The ticks of an axis, each with as many digits as distinguish it from the next. @param {number} step between two @param {boolean} usd */
export const ticks = (step, usd) => {
  const digits = Math.min(8, Math.max(0, 1 - Math.floor(Math.log10(step))));
  const format = new Intl.NumberFormat(language(), usd ? { style: "currency", currency: "USD", minimumFractionDigits: 0, maximumFractionDigits: digits }
    : { notation: "compact", maximumFractionDigits: 2 });
  return (/** @type {number} */ value) => format.format(value);
};

/** @param {number} share 0 to 1 */
export const percent = (share) => new Intl.NumberFormat(language(), { style: "percent", maximumFractionDigits: 0 }).format(share);

/** @param {number | null | undefined} value */
export const milliseconds = (value) => (value == null ? "–" : `${number(Math.round(value))} ms`);

/** @param {string | null | undefined} text a time in RFC 3339 */
export const time = (text) => {
  if (!text) return "–";
  const zone = utc() ? { timeZone: "UTC", timeZoneName: /** @type {const} */ ("short") } : {};
  return new Intl.DateTimeFormat(language(), {
    year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit", ...zone,
  }).format(new Date(text));
};
