// Every change of operators, filtered by object, operator and action.
import { html } from "../lib.js";
import { go } from "../location.js";
import { AuditTrail } from "../parts/audit.js";
import { Field } from "../parts/form.js";
import { t } from "../texts.js";

/** @param {{place: Record<string, string>}} props */
export function Audit({ place }) {
  const { object, actor, action } = place;
  /** @param {Record<string, string | undefined>} changed */
  const move = (changed) => go({ ...place, view: "audit", after: undefined, ...changed }, true);
  return html`<h1>${t("nav.audit")}</h1><div class="bar">
      <${Field} label=${t("audit.object")} value=${object ?? ""} onInput=${(/** @type {string} */ value) => move({ object: value })} />
      <${Field} label=${t("audit.actor")} value=${actor ?? ""} onInput=${(/** @type {string} */ value) => move({ actor: value })} />
      <${Field} label=${t("audit.action")} value=${action ?? ""} onInput=${(/** @type {string} */ value) => move({ action: value })} hint=${t("audit.action-hint")} />
    </div><${AuditTrail} place=${place} filters=${{ object, actor, action }} />`;
}
