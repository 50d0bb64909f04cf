// What a request is doing: progress, and errors in words with what to do.
import { Component, html } from "../lib.js";
import { t, word } from "../texts.js";

/** @param {{error: import("../api.js").ApiError | null, again?: () => void}} props */
export function Problem({ error, again }) {
  if (!error) return null;
  const complaints = error.body?.complaints ?? [];
  return html`<div class="problem" role="alert">
    <p><strong>${title(error)}</strong> ${error.message}</p>
    ${complaints.length > 0 && html`<ul>${complaints.map((/** @type {{path: string, message: string}} */ one) =>
      html`<li><code>${one.path}</code> ${one.message}</li>`)}</ul>`}
    ${again && html`<button type="button" onClick=${again}>${t("again")}</button>`}
  </div>`;
}

/** @param {import("../api.js").ApiError} error */
function title(error) {
  if (error.status === 0) return t("error.title.unreachable");
  if (error.status === 403) return t("error.title.forbidden");
  if (error.status === 412) return t("error.title.changed");
  if (error.code === "store_unavailable") return t("error.title.store");
  return t("error.title.other");
}

/** @param {{busy: boolean}} props */
export function Busy({ busy }) {
  return html`<div class=${busy ? "busy on" : "busy"} role="progressbar" aria-label=${t("busy")} aria-hidden=${!busy}></div>`;
}

/** What is shown of an answer: its progress, its error, and the answer as soon as there is one.
 * @param {{of: {data: any, error: any, busy: boolean, again: () => void}, children: (data: any) => any}} props */
export function Shown({ of, children }) {
  return html`<${Busy} busy=${of.busy} /><${Problem} error=${of.error} again=${of.again} />
    ${of.data !== null && children(of.data)}`;
}

/** @param {{state: string}} props */
export function State({ state }) {
  return html`<span class=${`state ${state}`}>${word("state", state)}</span>`;
}

/** Shows what is wrong where a view fails, and leaves the rest of the page usable. */
export class Guarded extends Component {
  /** @param {Error} error */
  static getDerivedStateFromError(error) {
    return { error };
  }

  render() {
    const { error } = /** @type {{error?: Error}} */ (this.state);
    if (!error) return this.props.children;
    return html`<div class="problem" role="alert"><p><strong>${t("error.title.page")}</strong> ${error.message}</p></div>`;
  }
}
