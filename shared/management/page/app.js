// The frame around every view: who is signed in, where one is, and what one prefers.
import { html, useEffect, useState } from "./lib.js";
import { follow, link, useLocation } from "./location.js";
import { language, prefer, theme, utc } from "./preferences.js";
import { Guarded } from "./parts/status.js";
import { session } from "./session.js";
import { t } from "./texts.js";
import { Access } from "./views/access.js";
import { AlertsView } from "./views/alerts.js";
import { Audit } from "./views/audit.js";
import { Backends } from "./views/backends.js";
import { Capacity } from "./views/capacity.js";
import { Configuration } from "./views/configuration.js";
import { Consumer } from "./views/consumer.js";
import { Consumers } from "./views/consumers.js";
import { Mine } from "./views/mine.js";
import { Models } from "./views/models.js";
import { Products, Teams } from "./views/named.js";
import { OwnAccess } from "./views/own-access.js";
import { OwnModels } from "./views/own-models.js";
import { Overview } from "./views/overview.js";
import { Playground } from "./views/playground.js";
import { Requests } from "./views/requests.js";
import { SignIn } from "./views/sign-in.js";

/** @typedef {{name: string, text: import("./texts.js").Key, view: any, hidden?: boolean, owners?: boolean}} Place `owners`: owners of teams see it */

/** @type {Place[]} */
const FOR_OPERATORS = [
  { name: "overview", text: "nav.overview", view: Overview },
  { name: "consumers", text: "nav.consumers", view: Consumers, owners: true },
  { name: "consumer", text: "nav.consumers", view: Consumer, hidden: true, owners: true },
  { name: "products", text: "nav.products", view: Products, owners: true },
  { name: "teams", text: "nav.teams", view: Teams, owners: true },
  { name: "access", text: "nav.access", view: Access, owners: true },
  { name: "backends", text: "nav.backends", view: Backends },
  { name: "requests", text: "nav.requests", view: Requests },
  { name: "models", text: "nav.models", view: Models },
  { name: "capacity", text: "nav.capacity", view: Capacity },
  { name: "playground", text: "nav.playground", view: Playground },
  { name: "configuration", text: "nav.configuration", view: Configuration },
  { name: "alerts", text: "nav.alerts", view: AlertsView },
  { name: "audit", text: "nav.audit", view: Audit },
];
/** @type {Place[]} */
const FOR_CALLERS = [
  { name: "mine", text: "nav.mine", view: Mine },
  { name: "own-models", text: "nav.own-models", view: OwnModels },
  { name: "own-access", text: "nav.own-access", view: OwnAccess },
  { name: "playground", text: "nav.playground", view: Playground },
];

export function App() {
  const place = useLocation();
  const [, again] = useState(0);
  useEffect(() => session.onChange(() => again((n) => n + 1)), []);
  useEffect(() => {
    const changed = () => again((n) => n + 1);
    window.addEventListener("tollgate:preferred", changed);
    return () => window.removeEventListener("tollgate:preferred", changed);
  }, []);
  document.documentElement.lang = language();
  document.documentElement.dataset.theme = theme();
  const who = session.get();
  const places = who?.role === "caller" ? FOR_CALLERS : FOR_OPERATORS.filter((one) => one.owners || session.mayReadAll());
  const current = places.find((one) => one.name === place.view) ?? places[0];
  document.title = who ? `${t(current.text)} – Tollgate` : "Tollgate";
  return html`<div onClick=${follow}>
    <a class="skip" href="#main">${t("skip")}</a>
    <header class="top">
      <strong class="brand">Tollgate</strong>
      ${who ? html`<${Menu} who=${who} places=${places.filter((one) => !one.hidden)} current=${current} />` : html`<${Preferences} />`}
    </header>
    <main id="main" tabindex="-1">${who
      ? html`<${Guarded} key=${current.name}><${current.view} place=${place} /><//>` : html`<${SignIn} />`}</main>
  </div>`;
}

/** The views, preferences and the end of the session. On a narrow screen a button unfolds them, and a choice folds them again.
 * @param {{who: import("./session.js").Session, places: Place[], current: Place}} props */
function Menu({ who, places, current }) {
  const [open, setOpen] = useState(false);
  /** @param {string} id of the element that is focused instead of what is folded away */
  const fold = (id) => {
    if (!open) return;
    setOpen(false);
    document.getElementById(id)?.focus();
  };
  return html`<button type="button" class="fold" id="fold" aria-expanded=${open} aria-controls="menu" onClick=${() => setOpen(!open)}>${t("menu")}</button>
    <div id="menu" class=${open ? "menu open" : "menu"} onKeyDown=${(/** @type {KeyboardEvent} */ event) => event.key === "Escape" && fold("fold")}>
      <nav aria-label=${t("nav")} onClick=${(/** @type {MouseEvent} */ event) => event.target instanceof HTMLAnchorElement && fold("main")}>${places.map((one) => html`<a
        href=${link({ view: one.name })} aria-current=${t(one.text) === t(current.text) ? "page" : undefined}>${t(one.text)}</a>`)}</nav>
      <${Preferences} />
      <span class="who">${who.name}</span><label><input type="checkbox" checked=${session.isKept()} aria-describedby="stay"
        onChange=${() => session.keep(!session.isKept())} /> ${t("stay")}</label><small id="stay" class="quiet">${t(session.isKept() ? "stay.kept" : "stay.not")}</small>
      <button type="button" onClick=${() => session.end()}>${t("sign-out")}</button>
    </div>`;
}

function Preferences() {
  const next = { system: "light", light: "dark", dark: "system" }[theme()] ?? "system";
  const other = language().startsWith("zh") ? "en" : "zh-TW";
  return html`<div class="preferences">
    <button type="button" class="plain" onClick=${() => prefer("zone", utc() ? "local" : "utc")}>${t(utc() ? "zone.utc" : "zone.local")}</button>
    <button type="button" class="plain" aria-label=${t("theme")} onClick=${() => prefer("theme", next)}>${{ system: "◐", light: "☀", dark: "☾" }[theme()]}</button>
    <button type="button" class="plain" lang=${other} onClick=${() => prefer("language", other)}>${other === "en" ? "English" : "繁體中文"}</button>
  </div>`;
}
