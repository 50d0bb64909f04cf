// The view and its filters stand in the URL, so that what one sees can be shared.
import { useEffect, useState } from "./lib.js";

const MOVED = "tollgate:moved";

/** @returns {Record<string, string>} */
export function here() {
  return Object.fromEntries(new URLSearchParams(window.location.search));
}

/** @param {Record<string, string | undefined>} values */
export function link(values) {
  const pairs = Object.entries(values).filter(([, value]) => value);
  return `${window.location.pathname}?${new URLSearchParams(/** @type {[string, string][]} */ (pairs))}`;
}

/** @param {Record<string, string | undefined>} values @param {boolean} [replace] */
export function go(values, replace = false) {
  window.history[replace ? "replaceState" : "pushState"](null, "", link(values));
  window.dispatchEvent(new Event(MOVED));
}

/** Show what a query of this page names. @param {string} search */
export function moveTo(search) {
  window.history.replaceState(null, "", window.location.pathname + search);
  window.dispatchEvent(new Event(MOVED));
}

export function useLocation() {
  const [place, setPlace] = useState(here());
  useEffect(() => {
    const moved = () => setPlace(here());
    for (const event of ["popstate", MOVED]) window.addEventListener(event, moved);
    return () => {
      for (const event of ["popstate", MOVED]) window.removeEventListener(event, moved);
    };
  }, []);
  return place;
}

/** Follow links inside the page without loading it again. @param {MouseEvent} event */
export function follow(event) {
  const anchor = /** @type {Element} */ (event.target).closest?.("a[href]");
  if (!(anchor instanceof HTMLAnchorElement) || event.metaKey || event.ctrlKey || event.shiftKey) return;
  if (anchor.target || anchor.origin !== window.location.origin || anchor.pathname !== window.location.pathname) return;
  event.preventDefault();
  go(Object.fromEntries(new URLSearchParams(anchor.search)));
  window.scrollTo(0, 0);
}
