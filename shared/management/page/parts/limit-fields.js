// Fields of limits. Each says what it means to leave it empty, by the defaults of the configuration where they are known.
import { useAnswer } from "../api.js";
import { money, number } from "../format.js";
import { html } from "../lib.js";
import { session } from "../session.js";
import { t } from "../texts.js";
import { Field } from "./form.js";
import { perOf } from "./limits.js";

/** The field with the period of a quota, and the usual one. @type {Record<string, [string, string]>} */
const PERIODS = { token_quota: ["token_quota_period", "month"], request_quota: ["request_quota_period", "day"], budget_usd: ["budget_period", "month"] };

/** The limits of consumers that set none; null: this operator may not read them. @returns {any} */
export function useDefaults() {
  const { data } = useAnswer(session.mayReadAll() ? "/gateway/configuration" : null);
  return data && (data.document.limits?.defaults ?? {});
}

/** @param {{names: string[], values: Record<string, string>, onChange: (name: string, value: string) => void, own?: any, defaults?: any}} props
 * `own`: the limits as they are, with their periods; `defaults`: in place of those that are empty; null: unknown; undefined: there are none */
export function LimitFields({ names, values, onChange, own, defaults }) {
  return names.map((name) => html`<${Field} key=${name} label=${labelOf(name, own, defaults)} type="number" min="0" step=${name === "budget_usd" ? "any" : "1"}
    value=${values[name] ?? ""} hint=${hintOf(name, defaults)} onInput=${(/** @type {string} */ value) => onChange(name, value)} />`);
}

/** The limits in fields that were filled in. @param {string[]} names @param {Record<string, string>} values @returns {Record<string, number>} */
export const given = (names, values) => Object.fromEntries(names.filter((name) => values[name]).map((name) => [name, Number(values[name])]));

/** @param {string} name @param {any} own @param {any} defaults */
function labelOf(name, own, defaults) {
  const label = t(/** @type {any} */ (`limit.${name}`));
  if (!(name in PERIODS)) return label;
  const [field, usual] = PERIODS[name];
  return `${label} ${perOf(own?.[field] ?? defaults?.[field] ?? usual)}`;
}

/** @param {string} name @param {any} defaults */
function hintOf(name, defaults) {
  if (defaults === null) return t("limit.hint");
  if (!defaults?.[name]) return t("limit.hint-none");
  return t("limit.hint-default", { value: (name === "budget_usd" ? money : number)(defaults[name]) });
}
