// Periods that one can choose, and how finely their charts are cut; times in the viewer's zone.
import { language, utc } from "./preferences.js";

/** @typedef {"hour" | "day" | "month"} Every */
/** @typedef {{name: string, text: import("./texts.js").Key, every: Every[]}} Period `every`: the pieces it may be cut into, the usual ones first */
/** @type {Period[]} */
export const PERIODS = [
  { name: "day", text: "period.day", every: ["hour"] },
  { name: "week", text: "period.week", every: ["day", "hour"] },
  { name: "month", text: "period.month", every: ["day", "hour"] },
  { name: "last-month", text: "period.last-month", every: ["day", "hour"] },
  { name: "year", text: "period.year", every: ["month", "day"] },
];

/** The bounds of a period as the API takes them. @param {string} name @param {Date} now */
export function bounds(name, now) {
  const day = 86_400_000;
  const year = now.getUTCFullYear();
  const month = now.getUTCMonth();
  const since = {
    day: new Date(now.getTime() - day),
    week: new Date(now.getTime() - 7 * day),
    "last-month": new Date(Date.UTC(year, month - 1, 1)),
    year: new Date(Date.UTC(year - 1, month + 1, 1)),
  }[name] ?? new Date(Date.UTC(year, month, 1));
  const until = name === "last-month" ? new Date(Date.UTC(year, month, 1)) : null;
  return { since: minute(since), until: until ? minute(until) : undefined };
}

/** @param {Date} moment */
const minute = (moment) => `${moment.toISOString().slice(0, 16)}Z`;

/** The start of a piece of a report, in seconds since 1970. @param {string} label 2026-11, 2026-11-29 or 2026-11-29T08:00Z */
export const startOf = (label) => Date.parse(label.length === 7 ? `${label}-01` : label) / 1000;

/** The starts of all pieces of a period, also of those without a call. @param {string} since @param {string | undefined} until
 * @param {Every} every */
export function pieces(since, until, every) {
  const end = until ? Date.parse(until) : Date.now();
  const at = new Date(since);
  at.setUTCMinutes(0, 0, 0);
  if (every !== "hour") at.setUTCHours(0);
  if (every === "month") at.setUTCDate(1);
  const starts = [];
  while (at.getTime() < end) {
    starts.push(at.getTime() / 1000);
    if (every === "hour") at.setUTCHours(at.getUTCHours() + 1);
    else if (every === "day") at.setUTCDate(at.getUTCDate() + 1);
    else at.setUTCMonth(at.getUTCMonth() + 1);
  }
  return starts;
}

/** What the axis says of a piece, different for each. Days and months are those of UTC. @param {number} start seconds @param {number} length of a piece, in seconds */
export function pieceName(start, length) {
  const zone = utc() || length >= 86_400 ? { timeZone: "UTC" } : {};
  const say = (/** @type {Intl.DateTimeFormatOptions} */ how) => new Intl.DateTimeFormat(language(), { ...how, ...zone }).format(start * 1000);
  if (length > 7 * 86_400) return say({ year: "numeric", month: "short" });
  const day = say({ month: "short", day: "numeric" });
  return length < 86_400 ? `${say({ hour: "2-digit", minute: "2-digit" })}\n${day}` : day;
}

const two = (/** @type {number} */ value) => String(value).padStart(2, "0");

/** A time of the API in the words of a field for times, in the viewer's zone. @param {string | undefined} text RFC 3339 */
export function toZone(text) {
  const moment = new Date(text ?? "");
  if (Number.isNaN(moment.getTime())) return "";
  if (utc()) return moment.toISOString().slice(0, 16);
  return `${moment.getFullYear()}-${two(moment.getMonth() + 1)}-${two(moment.getDate())}T${two(moment.getHours())}:${two(moment.getMinutes())}`;
}

/** The same in reverse. @param {string} text */
export function fromZone(text) {
  const moment = new Date(utc() ? `${text}Z` : text);
  return Number.isNaN(moment.getTime()) ? undefined : minute(moment);
}
