// Tables: a caption for screen readers, a scroller for narrow screens, and pages from the server.
import { html } from "../lib.js";
import { t } from "../texts.js";

/**
 * @typedef {{head: string, cell: (row: any) => any, right?: boolean}} Column
 * @param {{caption: string, columns: Column[], rows: any[], id: (row: any) => string, empty?: string}} props
 */
export function Table({ caption, columns, rows, id, empty }) {
  if (rows.length === 0) return html`<p class="empty">${empty ?? t("table.empty")}</p>`;
  return html`<div class="scroller" tabindex="0" role="region" aria-label=${caption}><table>
    <caption class="hidden">${caption}</caption>
    <thead><tr>${columns.map((column) => html`<th scope="col" class=${column.right ? "right" : ""}>${column.head}</th>`)}</tr></thead>
    <tbody>${rows.map((row) => html`<tr key=${id(row)}>${columns.map((column) =>
      html`<td class=${column.right ? "right" : ""}>${column.cell(row)}</td>`)}</tr>`)}</tbody>
  </table></div>`;
}

/** @param {{first: boolean, next: string | null, onFirst: () => void, onNext: (after: string) => void}} props */
export function Pages({ first, next, onFirst, onNext }) {
  if (first && !next) return null;
  return html`<nav class="pages" aria-label=${t("pages")}>
    <button type="button" disabled=${first} onClick=${onFirst}>${t("pages.first")}</button>
    <button type="button" disabled=${!next} onClick=${() => next && onNext(next)}>${t("pages.next")}</button>
  </nav>`;
}
