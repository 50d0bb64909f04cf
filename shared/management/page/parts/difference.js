// A difference as it is read: what goes, what comes, and a few lines around it.
import { difference } from "../difference.js";
import { html, useMemo } from "../lib.js";
import { t } from "../texts.js";

const MARKS = { gone: "- ", come: "+ ", same: "  ", gap: "  " };

/** @param {{before: string, after: string}} props */
export function Difference({ before, after }) {
  const lines = useMemo(() => difference(before, after), [before, after]);
  if (lines.every((line) => line.kind === "gap")) return html`<p class="quiet">${t("difference.none")}</p>`;
  return html`<pre class="difference" tabindex="0" aria-label=${t("configuration.difference")}>${lines.map(({ kind, text }) => {
    const shown = `${MARKS[kind]}${text}\n`;
    return kind === "gone" ? html`<del>${shown}</del>` : kind === "come" ? html`<ins>${shown}</ins>` : shown;
  })}</pre>`;
}

/** What a version changes, section by section. @param {{changes: {section: string, before: any, after: any}[]}} props */
export function Changes({ changes }) {
  const shown = (/** @type {any} */ value) => (value == null ? "" : JSON.stringify(value, null, 2));
  if (changes.length === 0) return html`<p class="quiet">${t("difference.none")}</p>`;
  return changes.map((one) => html`<h2>${one.section}</h2><${Difference} before=${shown(one.before)} after=${shown(one.after)} />`);
}
