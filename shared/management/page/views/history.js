// The versions of the configuration, and the way back to one, with what that would change.
import { ask, query, useAnswer } from "../api.js";
import { time } from "../format.js";
import { html, useEffect, useState } from "../lib.js";
import { go } from "../location.js";
import { Changes } from "../parts/difference.js";
import { Dialog, useAttempt } from "../parts/form.js";
import { Busy, Problem, Shown } from "../parts/status.js";
import { Pages, Table } from "../parts/table.js";
import { session } from "../session.js";
import { t } from "../texts.js";

/** @param {{etag: string, place: Record<string, string>, again: () => void}} props */
export function History({ etag, place, again }) {
  const versions = useAnswer(`/gateway/configuration/versions${query({ after: place.after, limit: 20 })}`);
  const [to, setTo] = useState("");
  const admin = session.isAdmin();
  const columns = [
    { head: t("configuration.version"), cell: (/** @type {any} */ one) => one.version },
    { head: t("audit.at"), cell: (/** @type {any} */ one) => time(one.at) },
    { head: t("audit.actor"), cell: (/** @type {any} */ one) => one.by },
    { head: t("configuration.note"), cell: (/** @type {any} */ one) => one.note },
    { head: t("configuration.sections"), cell: (/** @type {any} */ one) => one.sections.join(", ") },
    { head: t("actions"), cell: (/** @type {any} */ one) => (one.current ? t("configuration.current")
      : html`<button type="button" onClick=${() => setTo(String(one.version))}>${t(admin ? "configuration.rollback" : "configuration.compare")}</button>`) },
  ];
  return html`<h2>${t("configuration.history")}</h2><${Shown} of=${versions}>${(/** @type {any} */ list) => html`
      <${Table} caption=${t("configuration.history")} columns=${columns} rows=${list.data} id=${(/** @type {any} */ one) => String(one.version)} empty=${t("configuration.base-only")} />
      <${Pages} first=${!place.after} next=${list.after} onFirst=${() => go({ ...place, after: undefined })} onNext=${(/** @type {string} */ after) => go({ ...place, after })} />
      ${list.data.length > 0 && html`<button type="button" onClick=${() => setTo("base")}>${t("configuration.to-base")}</button>`}`}<//>
    ${to && html`<${Back} to=${to} etag=${etag} onDone=${(/** @type {boolean} */ done) => { setTo(""); if (done) again(); }} />`}`;
}

/** @param {{to: string, etag: string, onDone: (done: boolean) => void}} props */
function Back({ to, etag, onDone }) {
  const [changes, setChanges] = useState(/** @type {any[] | null} */ (null));
  const { error, attempt } = useAttempt();
  useEffect(() => {
    void attempt(async () => {
      const sections = to === "base" ? {} : (await ask(`/gateway/configuration/versions/${encodeURIComponent(to)}`)).data.document;
      setChanges((await ask("/gateway/configuration/validate", { method: "POST", body: sections })).data.changes);
    });
  }, [to]);
  const back = () => attempt(async () => {
    await ask("/gateway/configuration/rollback", { method: "POST", body: { version: to }, etag });
    onDone(true);
  });
  return html`<${Dialog} title=${t("configuration.back-title", { name: to })} onClose=${() => onDone(false)}>
    <${Busy} busy=${changes === null && error === null} /><${Problem} error=${error} />
    ${changes && html`<p>${t("configuration.back-text")}</p><${Changes} changes=${changes} />
      ${session.isAdmin() && html`<button type="button" class="main" onClick=${back}>${t("configuration.rollback")}</button>`}`}<//>`;
}
