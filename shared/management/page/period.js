// Periods that one can choose, and how finely their charts are cut.

/** @typedef {{name: string, text: import("./texts.js").Key, every: "hour" | "day" | "month"}} Period */
/** @type {Period[]} */
export const PERIODS = [
  { name: "day", text: "period.day", every: "hour" },
  { name: "week", text: "period.week", every: "day" },
  { name: "month", text: "period.month", every: "day" },
  { name: "last-month", text: "period.last-month", every: "day" },
  { name: "year", text: "period.year", every: "month" },
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
 * @param {"hour" | "day" | "month"} every */
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
